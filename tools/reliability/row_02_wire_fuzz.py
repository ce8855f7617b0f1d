"""Message fuzz, on the wire: tools/fuzz_wire.py, which the test suite runs in a short form."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from tests.support import toy_model
from tests.support.server_process import serving
from tools import fuzz_wire
from tools.reliability.base import Outcome, Row, Scale


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Every finding of the fuzzer is a failure."""
    messages, conversations = scale.of(4_000, 100_000), scale.of(800, 20_000)
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        with serving(
            Path(folder), transport=transport, reflection=True, access_log="none", request_read_timeout=2.0
        ) as server:
            report = asyncio.run(fuzz_wire.fuzz(server, seed, messages=messages, conversations=conversations))
            alive = server.process.poll() is None
    outside = {code: count for code, count in report.codes.items() if code not in fuzz_wire.CONTRACT}
    figures = {
        "messages": sum(report.codes.values()),
        "damaged connections": sum(report.conversations.values()),
        "codes outside the contract": sum(outside.values()),
        "probes answered": report.probes,
        "findings": len(report.findings),
    }
    notes = "; ".join(finding[:200] for finding in report.findings[:3])
    return Outcome(figures, alive and not report.findings and report.probes > 10, messages + conversations, notes)


ROW = Row(
    number="2",
    title="Message fuzzing over the network",
    method=(
        "16 raw clients send mutated messages to each method, and 4 more send mutated HTTP/2 frames. A valid "
        "client sends requests meanwhile."
    ),
    goal="100,000 messages: the process survives, 100% of valid requests succeed, only documented status codes.",
    result=(
        "{messages} messages, {damaged connections} damaged connections: {codes outside the contract} other "
        "status codes, {findings} findings. {probes answered} valid requests succeeded."
    ),
    wire=True,
    guarded_by=("tests/integration/wire/test_fuzz_wire.py",),
    run=run,
)
