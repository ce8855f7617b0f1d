"""Overload: open-loop clients that send five times the load that the server can handle."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import milliseconds
from tools.reliability.record import ROOT

TIMES = 5


def bench() -> Any:
    """benchmarks/overload.py, which has the callers."""
    sys.path[:0] = [str(ROOT / "benchmarks")]
    import overload

    return overload


def recovery(overload: Any, address: str, data: bytes) -> float:
    """Seconds until three calls in a row succeed again."""
    begun = time.monotonic()
    good = 0
    while good < 3 and time.monotonic() < begun + 30:
        seen = asyncio.run(one(overload, address, data))
        good = good + 1 if seen.answers else 0
    return time.monotonic() - begun


async def one(overload: Any, address: str, data: bytes) -> Any:
    """One call."""
    seen = overload.Seen()
    async with overload.grpc.aio.insecure_channel(address) as channel:
        await overload.ask(channel.unary_unary(overload.METHOD), data, seen)
    return seen


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The peak is the rate of 8 clients that wait for their responses. A separate client measures the time of a
    rejection, because the process that sends five times the peak has a queue itself."""
    overload, seconds = bench(), float(scale.of(3, 60))
    data = overload.message("heavy", overload.ROWS, overload.HEAVY[0])
    with tempfile.TemporaryDirectory() as folder, overload.serving(overload.export(Path(folder)), transport) as served:
        asyncio.run(overload.closed(served.address, data, 1.0))
        peak = asyncio.run(overload.closed(served.address, data, min(seconds, 15.0)))
        before = served.rss()
        rate = TIMES * peak.rate
        over, caller = overload.beside(
            served.address, seconds, lambda: overload.flood(served.address, data, seconds, rate), data
        )
        during = served.rss()
        back = recovery(overload, served.address, data)
    goodput, refused = over.rate / peak.rate, milliseconds(caller.refusals)
    figures = {
        "peak a second": round(peak.rate),
        "asked a second": round((len(over.answers) + sum(over.codes.values())) / over.seconds),
        "goodput of it": round(goodput, 2),
        "refusals": len(over.refusals),
        "p99 of a refusal in ms": refused,
        "in the flood's own process": milliseconds(over.refusals),
        "RSS before in MiB": round(before),
        "during": round(during),
        "over after s": round(back, 2),
        "codes": ", ".join(f"{number} {code}" for code, number in sorted(over.codes.items())) or "none",
    }
    good = goodput >= 0.9 and refused < 5 and during < 1.1 * before and back < 2
    return Outcome(
        figures, good, len(over.answers) + len(over.refusals), "all on the same cores; the flood gives way, at nice 10"
    )


ROW = Row(
    number="23",
    title="Overload",
    method="A [1024, 1024, 1024] model gets requests of 8 rows at 5 times its peak rate for 60 s (open loop).",
    goal=(
        "Goodput at least 90% of the peak, p99 of rejections below 5 ms, memory grows by less than 10%, recovery "
        "within 2 s."
    ),
    result=(
        "Goodput {goodput of it} of the peak, p99 of rejections {p99 of a refusal in ms} ms, {RSS before in MiB} "
        "to {during} MiB, recovery {over after s} s."
    ),
    wire=True,
    guarded_by=("tests/integration/wire/test_graceful_shutdown.py::test_a_full_queue_refuses_at_once",),
    run=run,
)
