"""Load generators: the C++ client perf_analyzer, and h2load if it is installed."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kanserve.pb import grpc_service_pb2 as pb
from servers.contestants import Contestant, Running
from servers.measured import Sample

INFER = "/inference.GRPCInferenceService/ModelInfer"
SECONDS = 120  # that one measurement may take
MESSAGE = 5  # least bytes of a gRPC message
ATTEMPTS = 3  # of one measurement: a window without a response makes the client give up


def inputs(folder: Path, tensor: str, rows: int, columns: int) -> Path:
    """A file with the input of a request for perf_analyzer, the same rows in [-1, 1] that `loop.py` runs. Without a
    file, perf_analyzer sends random bits: half of them are out of range, and subnormal numbers slow a graph down."""
    path = folder / f"{tensor}_{rows}_{columns}.json"
    if not path.exists():
        values = np.random.default_rng(0).uniform(-1, 1, (rows, columns)).astype(np.float32)
        path.write_text(json.dumps({"data": [{tensor: row} for row in values.tolist()]}))
    return path


def analyzer() -> str | None:
    """Path of perf_analyzer, if it is installed."""
    return shutil.which("perf_analyzer", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def body(folder: Path, model: str, tensor: str, columns: int) -> Path:
    """A file with the gRPC message of a request of one row."""
    path = folder / "body"
    if not path.exists():
        request = pb.ModelInferRequest(model_name=model)
        request.inputs.add(name=tensor, datatype="FP32", shape=[1, columns])
        request.raw_input_contents.append(np.full((1, columns), 0.25, np.float32).tobytes())
        data = request.SerializeToString()
        path.write_bytes(b"\0" + struct.pack(">I", len(data)) + data)
    return path


def perf_analyzer(
    contestant: Contestant, running: Running, model: str, data: Path, *, concurrency: int, rows: int, window: float
) -> Sample:
    """The mean of three windows of `window` seconds with the input file `data`. Raises RuntimeError if the client
    fails, or measures nothing in each attempt."""
    program = analyzer()
    if program is None:
        raise RuntimeError("perf_analyzer is not installed (the extra `dev` has it on x86-64)")
    table = data.with_name("measured.csv")
    flags = ["-m", model, "-i", "grpc", "-u", f"127.0.0.1:{running.port}", "-b", str(rows)]
    flags += ["--input-data", str(data)]
    flags += ["--concurrency-range", f"{concurrency}:{concurrency}", "--percentile", "99", "-f", str(table)]
    flags += ["--measurement-interval", str(round(window * 1000)), "--stability-percentage", "999", "--max-trials", "3"]
    for _ in range(ATTEMPTS):
        table.unlink(missing_ok=True)  # the client exits with 0 and leaves it if it measures nothing
        before = running.cpu_seconds()
        done = subprocess.run([program, *flags, *contestant.flags], capture_output=True, text=True, timeout=SECONDS)
        spent = running.cpu_seconds() - before
        if done.returncode == 0 and table.exists():
            return _sample(table, done.stdout, spent)
    raise RuntimeError(f"{contestant.name} at {concurrency}: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def _sample(table: Path, output: str, spent: float) -> Sample:
    """The figures in the table and the output of perf_analyzer. `spent`: CPU seconds of the server meanwhile. The
    windows leave out the first and last requests, so the CPU time per request is a little too high."""
    requests = max(1, sum(int(count) for count in re.findall(r"Request count: (\d+)", output)))
    (row,) = csv.DictReader(table.open())
    rate = float(row["Inferences/Second"])
    return Sample(rate, float(row["p50 latency"]), float(row["p99 latency"]), spent / requests * 1e6)


def h2load(
    running: Running,
    data: Path,
    connections: int,
    streams: int,
    *,
    seconds: float,
    headers: Sequence[str] = (),
    secure: bool = False,
) -> Sample:
    """The rate and the server's CPU time of requests with the file `data`. Raises RuntimeError without h2load, for a
    status other than 200, and for responses without a message."""
    program = shutil.which("h2load")
    if program is None:
        raise RuntimeError("h2load is not installed (Debian: nghttp2-client)")
    flags = ["-c", str(connections), "-m", str(streams), "-D", str(max(1, round(seconds))), "-d", str(data)]
    for header in ("content-type: application/grpc", "te: trailers", *headers):
        flags += ["-H", header]
    before = running.cpu_seconds()
    command = [program, *flags, f"http{'s' * secure}://127.0.0.1:{running.port}{INFER}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    spent = running.cpu_seconds() - before
    rate = re.search(r"finished in [\d.]+s, ([\d.]+) req/s", done.stdout)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    counts = [int(count) for count in statuses.groups()] if statuses else [0]
    answered = re.search(r"\((\d+)\) data", done.stdout)
    # A gRPC error has status 200 too, but no message.
    if rate is None or counts[0] == 0 or any(counts[1:]) or answered is None or int(answered[1]) < MESSAGE * counts[0]:
        raise RuntimeError(f"h2load: {done.stdout[-800:]}{done.stderr[-400:]}")
    return Sample(float(rate[1]), 0.0, 0.0, spent / counts[0] * 1e6)
