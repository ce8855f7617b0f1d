"""NVIDIA's perf_analyzer, a C++ client, runs against the server and prints its table."""

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import Server
from tests.support.tiers import full

pytestmark = full("peer")

CLIENTS = ["--concurrency-range", "1:4:3"]
MORE = {
    "unary": CLIENTS,
    "stream": [*CLIENTS, "--streaming", "--async"],
    # Low rates, and threads for each: on a busy machine the generator is late by itself.
    "at a rate": ["--request-rate-range", "10:20:10", "--request-distribution", "poisson", "--max-threads", "16"],
    "http": CLIENTS,
    "http with JSON": [*CLIENTS, "--input-tensor-format", "json", "--output-tensor-format", "json"],
}


@pytest.mark.parametrize("way", MORE)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="perf-analyzer is x86-64 only")
def test_perf_analyzer_reaches_its_table(served: Server, tmp_path: Path, way: str) -> None:
    program = shutil.which("perf_analyzer", path=str(Path(sys.executable).parent))
    assert program
    over_http = way.startswith("http")
    assert served.http  # `make setup` installs h2corn
    where = ["-i", "http", "-u", served.http] if over_http else ["-i", "grpc", "-u", served.url]
    flags = ["-m", "efficient-kan-digits", *where, "-b", "8", *MORE[way]]
    # Short windows, and any of them counts as stable: it is the protocol that is tried, on a busy machine too.
    flags += ["--measurement-interval", "200", "--stability-percentage", "999"]
    done = subprocess.run([program, *flags], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(
        r"^(?:Concurrency|Request Rate): (\d+), throughput: ([0-9.]+) infer/sec", done.stdout, re.MULTILINE
    )
    requested = ["10", "20"] if way == "at a rate" else ["1", "4"]
    # It leaves out a rate that itself did not reach, which is no word about the server.
    assert [level for level, _ in rows] == requested or "not able to keep up" in done.stdout
    assert all(float(throughput) > 0 for _, throughput in rows)
