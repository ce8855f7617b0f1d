"""Worker kill: only the requests of the killed worker are lost."""

from __future__ import annotations

import collections
import os
import signal
import threading
import time

import grpc

from kanserve.server.supervisor import STEADY
from tests.kanserve.server.test_supervisor import pids
from tests.support.server_process import INFERENCE, Server, request
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.helpers import ROWS, toys

DATA = request(ROWS).SerializeToString()
PATIENT, PLAIN = 4, 4  # clients that ask again, and those that do not
TRIES, PAUSE = 6, 0.05  # of a patient one; seconds, doubled each time
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]


class Client(threading.Thread):
    """A client that sends calls one after the other, and reconnects after an error and after every 50 calls."""

    def __init__(self, server: Server, stop: threading.Event, tries: int) -> None:
        super().__init__(daemon=True)
        self.address, self.stop, self.tries = server.address, stop, tries
        self.ends: collections.Counter[str] = collections.Counter()

    def run(self) -> None:
        left = self.tries
        while not self.stop.is_set():
            with grpc.insecure_channel(self.address, OPTIONS) as channel:
                call = channel.unary_unary(f"{INFERENCE}ModelInfer")
                try:
                    for _ in range(50):
                        call(DATA, timeout=60)
                        self.ends["OK"] += 1
                        left = self.tries
                except grpc.RpcError as error:
                    left -= 1
                    if not left:
                        self.ends[error.code().name] += 1
                        left = self.tries
                    self.stop.wait(PAUSE * 2 ** (self.tries - left) if self.tries > 1 else 0)


def kill_one(server: Server) -> float:
    """Seconds until another is there and says that it is ready."""
    until(lambda: len(pids(server)) == 2 and "kanserve_workers 2\n" in server.metrics())
    before, begun = pids(server), time.monotonic()
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(pids(server) - before) == 1 and "kanserve_workers 2\n" in server.metrics())
    return time.monotonic() - begun


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The two kinds of client side by side."""
    kills, back = scale.of(2, 20), []
    with toys(transport, workers=2, threads=2) as server:
        stop = threading.Event()
        patient, plain = (
            [Client(server, stop, tries) for _ in range(n)] for tries, n in ((TRIES, PATIENT), (1, PLAIN))
        )
        for client in (*patient, *plain):
            client.start()
        for at in range(kills):
            back.append(kill_one(server))
            # A worker that ends sooner is taken for one that cannot live, and the next comes later and later.
            stop.wait(STEADY + 1 if scale.full else 0.5)
            scale.tell(at + 1, kills)
        stop.set()
        for client in (*patient, *plain):
            client.join(30)
    ends = sum((client.ends for client in (*patient, *plain)), collections.Counter())
    with_retry = sum(client.ends.total() - client.ends["OK"] for client in patient)
    without = sum(client.ends.total() - client.ends["OK"] for client in plain)
    figures = {
        "kills": kills,
        "answered": ends["OK"],
        "lost with retry": with_retry,
        "without": without,
        "back after s, at most": round(max(back), 2),
        "codes": ", ".join(sorted(set(ends) - {"OK"})) or "none",
    }
    # By grpc.aio each worker has a socket of its own: a connection made while one dies may die with it.
    most = kills * PLAIN * (1 if transport == "asgi" else 2)
    good = not with_retry and without <= most and max(back) < 3 and set(ends) <= {"OK", "UNAVAILABLE"}
    return Outcome(figures, good, kills, f"without retry at most {most} were in flight")


ROW = Row(
    number="22",
    title="Killed worker",
    method="One of 2 workers gets SIGKILL, 20 times, under 4 clients with retries and 4 without.",
    goal="No request lost with retries, at most those of the worker without. A new worker within 3 s.",
    result=(
        "{lost with retry} lost with retries, {without} without, {answered} responses. A new worker within {back "
        "after s, at most} s."
    ),
    wire=True,
    guarded_by=("tests/kanserve/server/test_supervisor.py::test_a_worker_that_is_killed_is_replaced",),
    run=run,
)
