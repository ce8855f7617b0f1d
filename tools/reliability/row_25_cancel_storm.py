"""Cancellations at any moment: the server leaks no request, and does not run one that is canceled in the queue."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import tempfile
import threading
from pathlib import Path

import grpc
import numpy as np

from tests.kanserve.server.test_supervisor import value
from tests.support import toy_model
from tests.support.server_process import INFERENCE, Server, request, serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite
from tools.reliability.helpers import mib, sample

SLOW = request(np.zeros((1, 1), np.float32), "slow").SerializeToString()
QUICK = request(np.zeros((1, 3), np.float32)).SerializeToString()
PENDING, RUNS = (f'nv_inference_{name}{{model="slow",version="1"}}' for name in ("pending_request_count", "exec_count"))
AT_ONCE = 100
RETURNED = 2.5  # seconds after a burst, when what it needed for a moment has gone back
MOST = 16  # MiB that memory may grow by


async def storm(server: Server, rng: random.Random, count: int, scale: Scale) -> collections.Counter[str]:
    """Calls of two models, one of them slow; each is cancelled after up to 30 ms."""
    ends: collections.Counter[str] = collections.Counter()
    numbers = iter(range(count))
    async with grpc.aio.insecure_channel(server.address) as channel:
        infer = channel.unary_unary(f"{INFERENCE}ModelInfer")

        async def caller() -> None:
            for number in numbers:
                call = infer(SLOW if rng.random() < 0.5 else QUICK, timeout=60)
                asyncio.get_running_loop().call_later(rng.random() * 0.03, call.cancel)
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await call
                ends[(await call.code()).name] += 1
                scale.tell(number, count)

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return ends


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The server's own metrics count the leftovers: calls in flight, queued requests, memory."""
    count, returned = scale.of(300, 10_000), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        toy_model.write_slow(Path(folder))
        with serving(Path(folder), transport=transport, plain_onnx=True, threads=1, access_log="none") as server:
            server.call(f"{INFERENCE}ModelInfer", QUICK)
            ran, rng = sample(server, RUNS), random.Random(seed)
            ends = asyncio.run(storm(server, rng, count // 2, scale))
            returned.wait(RETURNED if scale.full else 0)
            before = mib(server)
            ends += asyncio.run(storm(server, rng, count - count // 2, scale))
            with contextlib.suppress(AssertionError):
                until(lambda: sample(server, "kanserve_inflight_requests") == 0)
                until(lambda: value(server.metrics(), PENDING) == 0)
            held, waiting = sample(server, "kanserve_inflight_requests"), sample(server, PENDING)
            ran = sample(server, RUNS) - ran
            returned.wait(RETURNED if scale.full else 0)
            with contextlib.suppress(AssertionError):
                until(lambda: mib(server) - before < MOST)
            grown = mib(server) - before
            good = bool(server.call(f"{INFERENCE}ModelInfer", QUICK))
    figures = {
        "cancelled": ends["CANCELLED"],
        "answered before": ends["OK"],
        "left in flight": int(held),
        "left in the queue": int(waiting),
        "runs of the slow model": int(ran),
        "RSS grew by MiB in the second half": round(grown, 1),
    }
    # A run takes longer than any call lives: most of those that were asked for must not have begun.
    passed = good and not held and not waiting and ran < count / 10 and grown < MOST
    return Outcome(figures, passed, count)


ROW = Row(
    number="25",
    title="Cancelled requests",
    method="100 clients send 10,000 requests, half of them to a slow model, and cancel each within 30 ms.",
    goal=(
        "None stays in flight or queued, and those cancelled in the queue are not executed. Memory grows by less "
        "than 16 MiB."
    ),
    result=(
        "{cancelled} cancelled: {left in flight} in flight, {left in the queue} queued, {runs of the slow model} "
        "executions of the slow model, {RSS grew by MiB in the second half} MiB more."
    ),
    wire=True,
    guarded_by=(
        "tests/kanserve/execution/test_executor.py::test_a_full_queue_refuses_at_once_and_a_caller_that_left_makes_room",
    ),
    run=run,
)
test_row = suite(ROW)
