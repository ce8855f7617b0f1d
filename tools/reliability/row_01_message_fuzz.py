"""Message fuzz, in process: how each RPC method handles damaged messages, without a network."""

from __future__ import annotations

import asyncio
import collections
import random
import tempfile
from pathlib import Path

from kanserve.errors import KanserveError
from kanserve.grpc_api import call_context
from kanserve.grpc_api.call_context import Call
from tests.kanserve.grpc_api.hot_path.test_method import Served
from tests.support import toy_model
from tests.support.server_process import INFERENCE
from tools import fuzz_wire
from tools.reliability.base import Outcome, Row, Scale, suite

METHOD = f"{INFERENCE}ModelInfer"
TOLD = 20_000  # messages between two looks at the bar


async def feed(
    served: Served, rng: random.Random, count: int, scale: Scale
) -> tuple[collections.Counter[str], list[str]]:
    """How the calls ended, and what must not be."""
    codes: collections.Counter[str] = collections.Counter()
    findings: list[str] = []
    seeds = fuzz_wire.seeds()[METHOD]
    everything = [message for messages in fuzz_wire.seeds().values() for message in messages]
    for number in range(count):
        data = fuzz_wire.mutated(rng, rng.choice(seeds), everything)
        try:
            await served.service.infer(data, Call("call", False, None))
            code, words = "OK", ""
        except KanserveError as error:
            code, words = call_context.code(error).name, call_context.text(error, "id")
        except Exception as error:  # a crash is what is looked for
            code, words = "CRASH", repr(error)
        codes[code] += 1
        if code not in fuzz_wire.CONTRACT or fuzz_wire.LEAK.search(words):
            findings.append(f"{code} {words[:100]!r} to {data[:200].hex()}")
        if number % TOLD == 0:
            scale.tell(number, count)
    return codes, findings


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Messages pass the known heads and the hot path, as in a real call."""
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        served = Served(Path(folder))
        codes, findings = served.loop.run_until_complete(
            feed(served, random.Random(seed), scale.of(3_000, 1_000_000), scale)
        )
        served.registry.close()
        served.loop.run_until_complete(asyncio.sleep(0))
        served.loop.close()
    figures: dict[str, float | int | str] = {
        "messages": sum(codes.values()),
        "crashes": codes["CRASH"],
        "INTERNAL or UNKNOWN": codes["INTERNAL"] + codes["UNKNOWN"],
        **{code: count for code, count in sorted(codes.items()) if code != "CRASH"},
    }
    reached = codes["OK"] > 0 and codes["INVALID_ARGUMENT"] > 0
    return Outcome(figures, not findings and reached, sum(codes.values()), "; ".join(findings[:3]))


ROW = Row(
    number="1",
    title="Message fuzzing in one process",
    method="Mutated ModelInfer messages pass through parser, validation, batching and graph.",
    goal="1,000,000 messages: no crash, only documented status codes, no INTERNAL or UNKNOWN.",
    result="{messages} messages: {crashes} crashes, {INTERNAL or UNKNOWN} INTERNAL or UNKNOWN.",
    run=run,
)
test_row = suite(ROW)
