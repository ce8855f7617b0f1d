"""Deadlines in the queue: the server does not run a request whose deadline expires in the queue."""

from __future__ import annotations

import asyncio
import collections
import tempfile
from pathlib import Path

import grpc
import numpy as np

from tests.support import toy_model
from tests.support.server_process import INFERENCE, Server, request, serving
from tests.support.wait import until, until_async
from tools.reliability.base import Outcome, Row, Scale, suite
from tools.reliability.helpers import sample

SLOW = request(np.zeros((1, 1), np.float32), "slow").SerializeToString()
DEADLINE = 0.02  # seconds
RUNS = 'nv_inference_exec_count{model="slow",version="1"}'
STEPS = 60  # of the slow model; 12 take 0.2 s on a fast machine
TRIES = 20  # for a burst during one run: on a busy machine, the run can end before the burst begins
BURST = 200  # calls at once; the queue takes 256


async def burst(server: Server, count: int) -> tuple[collections.Counter[str], bool]:
    """Send `count` calls with a short deadline during a long run. Returns their statuses, and whether the run lasted
    until all calls ended."""
    ends: collections.Counter[str] = collections.Counter()

    async def one(call: grpc.aio.UnaryUnaryMultiCallable, timeout: float) -> None:
        try:
            await call(SLOW, timeout=timeout)
            ends["OK"] += 1
        except grpc.aio.AioRpcError as error:
            ends[error.code().name] += 1

    async with grpc.aio.insecure_channel(server.address) as channel:
        call = channel.unary_unary(f"{INFERENCE}ModelInfer")
        first = asyncio.create_task(one(call, 60))
        await until_async(lambda: sample(server, "kanserve_oldest_execution_age_seconds") > 0)
        await asyncio.gather(*(one(call, DEADLINE) for _ in range(count)))
        lasted = not first.done()
        await first
    return ends, lasted


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The server's own metric counts the inference calls."""
    count = scale.of(200, 10_000)
    ends: collections.Counter[str] = collections.Counter()
    ran = 0
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write_slow(Path(folder), steps=STEPS)
        with serving(Path(folder), transport=transport, plain_onnx=True, threads=1, access_log="none") as server:
            bursts = count // BURST
            for at in range(bursts):
                for _ in range(TRIES):
                    before = sample(server, RUNS)
                    came, lasted = asyncio.run(burst(server, BURST))
                    until(lambda before=before: sample(server, RUNS) > before)
                    if lasted:
                        break
                ends, ran = ends + came, ran + int(sample(server, RUNS) - before)
                scale.tell(at + 1, bursts)
    over = max(0, ran - bursts)  # of each burst, only the first call begins in time
    figures = {
        "calls with 20 ms": count,
        "answered": ends["OK"],
        "runs": ran,
        "run though their time was over": over,
        **{code: number for code, number in sorted(ends.items()) if code != "OK"},
    }
    reported = set(ends) <= {"OK", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
    return Outcome(figures, not over and reported, count)


ROW = Row(
    number="24",
    title="Deadlines in the queue",
    method=(
        "10,000 requests with a deadline of 20 ms, 200 at a time, wait behind a longer execution. The server "
        "counts executions."
    ),
    goal="No expired request is executed.",
    result=(
        "{run though their time was over} executed after their deadline. {DEADLINE_EXCEEDED} DEADLINE_EXCEEDED, "
        "{UNAVAILABLE} UNAVAILABLE, {answered} OK."
    ),
    wire=True,
    run=run,
)
test_row = suite(ROW)
