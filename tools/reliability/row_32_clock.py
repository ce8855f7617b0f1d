"""Clock jumps: changes of the wall clock and of daylight saving time do not affect requests."""

from __future__ import annotations

import collections
import contextlib
import datetime
import importlib.util
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import grpc
import numpy as np

from kanserve.pb import grpc_service_pb2 as pb
from tests.support import toy_model
from tests.support.server_process import INFERENCE, Server, request, serving
from tests.support.wait import until
from tools.reliability.base import NotRun, Outcome, Row, Scale, suite

ZONE = "Europe/Berlin"
# Two seconds before its clocks went forward, and back.
CHANGES = [datetime.datetime(2026, month, day, 0, 59, 58, tzinfo=datetime.UTC) for month, day in ((3, 29), (10, 25))]
HOUR = 3600
CLIENTS, SECONDS = 4, 60.0  # that ask; for each call, much less than a jump
EACH = 0.4  # seconds between two jumps
LINES = 15  # calls between them, of which every fifth has a line in the log
ROWS = np.ones((4, 3), np.float32)
EXPECTED = toy_model.outputs(ROWS)
WAITS = 60_000_000  # microseconds that a request may wait, as it says itself
SETTINGS = {"repository_poll_seconds": 0.2, "loop_stall_seconds": 30.0, "access_log": "sampled:5"}
EXPECTED_LINES = ("request_completed", "shutdown_started", "server_stopped")


class Clock:
    """A wall clock that a file controls for the processes started inside; their monotonic clock is unchanged."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self.jump(0)

    def jump(self, seconds: float) -> None:
        """So far from the real time, from now on."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds:+.0f}\n")
        fresh.rename(self._file)

    @contextlib.contextmanager
    def faked(self) -> Iterator[None]:
        """For processes that are started inside."""
        result = importlib.util.find_spec("libfaketime")
        assert result is not None
        assert result.origin is not None
        library = Path(result.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        if not library.is_file():
            raise NotRun("libfaketime is not made for this machine")
        variables = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "TZ": ZONE,
        }
        with mock.patch.dict(os.environ, variables):
            yield


def client(server: Server, ends: collections.Counter[str], over: threading.Event) -> None:
    """One call after the other, each with a deadline, and a time that it may wait."""
    requested = request(ROWS)
    requested.parameters["timeout"].int64_param = WAITS
    data = requested.SerializeToString()
    with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(f"{INFERENCE}ModelInfer")
        while not over.is_set():
            try:
                answer = pb.ModelInferResponse.FromString(call(data, timeout=SECONDS))
            except grpc.RpcError as error:
                ends[f"{error.code().name} {(error.details() or '')[:80]}"] += 1
                continue
            result = np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(EXPECTED.shape)
            ends["OK" if np.allclose(result, EXPECTED, rtol=1e-4) else "wrong"] += 1


def jumps(rounds: int, *, summer: bool) -> Iterator[float]:
    """Seconds from the real time, one after the other."""
    for at in range(rounds):
        yield from (HOUR, -HOUR, 0)
        if summer:
            yield CHANGES[at % 2].timestamp() - time.time()
    yield 0


def largest(server: Server) -> float:
    """Between two lines of the log, in seconds: whether the clock jumped at all."""
    said = [datetime.datetime.fromisoformat(line["timestamp"]).timestamp() for line in server.lines()]
    return max(abs(after - before) for before, after in itertools.pairwise(said))


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Under load, with five repository scans per second and a watchdog that waits 30 seconds."""
    rounds = scale.of(1, 60)
    total = scale.of(3 * rounds + 1, 4 * rounds + 1)
    ends: collections.Counter[str] = collections.Counter()
    over = threading.Event()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy_model.write(folder / "models")
        clock = Clock(folder)
        settings = {"transport": transport, **SETTINGS}
        with clock.faked(), serving(folder / "models", **settings) as server:
            threads = [threading.Thread(target=client, args=(server, ends, over), daemon=True) for _ in range(CLIENTS)]
            until(lambda: any(line["event"] == "server_ready" for line in server.lines()))
            before = len(server.lines())
            for thread in threads:
                thread.start()
            until(lambda: ends["OK"] > LINES)
            for at, seconds in enumerate(jumps(rounds, summer=scale.full)):
                clock.jump(seconds)
                seen = ends["OK"] + LINES
                over.wait(4.5 if abs(seconds) > HOUR else EACH)  # through the change of summer time
                with contextlib.suppress(AssertionError):  # a server that answers nobody is told below
                    until(lambda seen=seen: ends["OK"] >= seen)  # or no line is written meanwhile
                scale.tell(min(at, total), total)
            over.set()
            for thread in threads:
                thread.join(30)
            text = server.metrics()
            code = server.stop()
            others = collections.Counter(line["event"] for line in server.lines()[before:])
            jumped = largest(server)
    others = collections.Counter({event: count for event, count in others.items() if event not in EXPECTED_LINES})
    failed = sum(ends.values()) - ends["OK"]
    loads = sum(
        float(line.split()[-1]) for line in text.splitlines() if line.startswith("kanserve_model_load_failures")
    )
    figures = {
        "calls": sum(ends.values()),
        "jumps": total,
        "largest jump seen in the log in s": round(jumped),
        "failed calls": failed,
        "reloads and other lines without a cause": sum(others.values()),
        "failed loads": round(loads),
        "exit code": code,
    }
    good = not failed and not others and not loads and code == 0 and jumped > HOUR - 60 and ends["OK"] > LINES
    notes = "; ".join(f"{count} x {what}" for what, count in (*ends.items(), *others.items()) if what != "OK")
    return Outcome(figures, good, sum(ends.values()), notes)


ROW = Row(
    number="32",
    title="Clock jumps",
    method=(
        "libfaketime moves the wall clock of the server by an hour back and forth, to another day, and through "
        "both DST changes. 4 clients send requests with deadlines, and repository scans continue."
    ),
    goal="No timeout and no reload without a cause.",
    result=(
        "{jumps} jumps: {failed calls} of {calls} calls failed, {reloads and other lines without a cause} "
        "unexplained log lines."
    ),
    wire=True,
    needs=("libfaketime",),
    run=run,
)
test_row = suite(ROW)
