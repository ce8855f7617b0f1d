"""Conformance: third-party clients, the gRPC specification, the Open Inference Protocol, generated messages."""

from __future__ import annotations

import re
import subprocess
import sys

from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.record import ROOT

TESTS = (
    *("tests/integration/wire/test_foreign_clients.py", "tests/integration/wire/test_transports.py"),
    *(
        "tests/integration/wire/test_server.py",
        "tests/integration/wire/test_infer_stream.py",
        "tests/integration/wire/test_bad_requests.py",
    ),
    *(
        "tests/kanserve/rest/test_application.py",
        "tests/integration/wire/test_classification.py",
        "tests/integration/wire/test_datatypes.py",
    ),
    "tests/integration/test_perf_analyzer.py",
)


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Tests of the suite, over both transports, in a separate process."""
    chosen = TESTS[:2] if not scale.full else TESTS
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-200:]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    figures = {word: counts.get(word, 0) for word in ("passed", "failed", "skipped")}
    failed = [line[:120] for line in done.stdout.splitlines() if line.startswith("FAILED")]
    good = done.returncode == 0 and counts.get("passed", 0) > 0
    return Outcome(figures, good, sum(counts.values()), "; ".join(failed[:3]))


ROW = Row(
    number="34",
    title="Protocol conformance",
    method=(
        "tritonclient over gRPC and HTTP, perf_analyzer, raw HTTP/2, each error with Triton's code and text, "
        "streams, data types and generated messages, on both transports."
    ),
    goal="All tests pass.",
    result="{passed} passed, {failed} failed, {skipped} skipped.",
    guarded_by=("tests/integration/wire/test_foreign_clients.py", "tests/integration/wire/test_transports.py"),
    run=run,
)
