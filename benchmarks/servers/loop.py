"""Sessions that run in a loop without a server: the upper limit of a server's rows per second.

    python loop.py MODEL.onnx ROWS THREADS SECONDS

Each thread has one session with one thread and runs the same rows again and again. The program prints rows per second.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.shared.ort import onnxruntime

WARM_UP = 20  # executions of each thread before the time begins
TIMEOUT = 60  # seconds


def measure(graph: Path, rows: int, threads: int, seconds: float) -> float:
    """Rows per second of this program in a separate process. Raises RuntimeError with its output if it fails."""
    command = [sys.executable, __file__, str(graph), str(rows), str(threads), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + TIMEOUT)
    if done.returncode != 0:
        raise RuntimeError(f"loop of {graph.name}: {done.stderr[-1000:]}")
    return float(done.stdout)


def run(graph: bytes, rows: int, threads: int, seconds: float) -> float:
    """Rows per second of all threads together, in this process."""
    counts, barrier = [0] * threads, threading.Barrier(threads + 1)
    end = threading.Event()

    def loop(at: int) -> None:
        session, feeds, output = prepared(graph, rows)
        for _ in range(WARM_UP):
            session.run(output, feeds)
        barrier.wait()
        while not end.is_set():
            session.run(output, feeds)
            counts[at] += 1

    workers = [threading.Thread(target=loop, args=(at,)) for at in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    begun = time.perf_counter()
    time.sleep(seconds)
    done, passed = sum(counts), time.perf_counter() - begun
    end.set()
    for worker in workers:
        worker.join()
    return done * rows / passed


def prepared(graph: bytes, rows: int) -> tuple[Any, dict[str, Any], list[str]]:
    """A session with one thread, its input [rows, I] and the name of its first output."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options)
    entry = session.get_inputs()[0]
    values = np.random.default_rng(0).uniform(-1, 1, (rows, entry.shape[1])).astype(np.float32)
    return session, {entry.name: values}, [session.get_outputs()[0].name]


if __name__ == "__main__":
    path, many, threads, seconds = sys.argv[1:]
    print(run(Path(path).read_bytes(), int(many), int(threads), float(seconds)))
