"""Error hygiene: a search of error messages and trailers for internals of the server."""

from __future__ import annotations

import random

import grpc

from tests.support import bad_requests
from tests.support.server_process import INFERENCE, Server, request
from tools import fuzz_wire
from tools.reliability import row_03_structured_fuzz as structured
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import ROWS, toys


def told(server: Server, path: str, data: bytes) -> str:
    """The text and the trailers of a rejection."""
    try:
        server.call(path, data)
    except grpc.RpcError as error:
        trailers = " ".join(f"{key} {value!r}" for key, value in error.trailing_metadata() or ())
        return f"{error.details()} {trailers}"
    return ""


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Mutations of every unary method, every known mistake, requests with one thing broken."""
    rng, count = random.Random(seed), scale.of(300, 20_000)
    streams = fuzz_wire.streams()
    by_path = {path: data for path, data in fuzz_wire.seeds().items() if path not in streams}
    everything = [message for messages in by_path.values() for message in messages]
    words: list[str] = []
    with toys(transport) as server:
        for mistake in bad_requests.CASES:
            words.append(told(server, f"{INFERENCE}{mistake.method}", mistake.message.SerializeToString()))
        for number in range(count):
            path = rng.choice(list(by_path))
            words.append(told(server, path, fuzz_wire.mutated(rng, rng.choice(by_path[path]), everything)))
            message = request(ROWS)
            rng.choice(structured.BREAKS)(rng, message)
            words.append(told(server, f"{INFERENCE}ModelInfer", message.SerializeToString()))
            scale.tell(number, count)
    result = sorted({text[:150] for text in words if fuzz_wire.LEAK.search(text)})
    texts = sum(bool(text) for text in words)
    figures = {"texts": texts, "different ones": len(set(words)), "with a path, class or traceback": len(result)}
    return Outcome(figures, not result and texts > count, len(words), "; ".join(result[:3]))


ROW = Row(
    number="4",
    title="Error texts without internals",
    method=(
        "The test searches all error texts of known mistakes, mutated messages and structured fuzzing for paths, "
        "class names, addresses and tracebacks."
    ),
    goal="None found.",
    result="{with a path, class or traceback} of {texts} texts.",
    wire=True,
    guarded_by=("tests/integration/wire/test_fuzz_wire.py", "tests/integration/wire/test_bad_requests.py"),
    run=run,
)
