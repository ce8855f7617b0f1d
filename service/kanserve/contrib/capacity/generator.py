"""Load generator: a process that sends requests at random times, which do not depend on the responses.

    python -P -m kanserve.contrib.capacity.generator

It reads one JSON document per line from stdin: first the server and the request (`Job`), then a rate and a time for
each measurement. For each measurement it writes a JSON line and the array of `Sent` to stdout. Latency begins at the
time at which the request was due, so a slow server or generator cannot hide a wait (coordinated omission).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import select
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kanserve.contrib.capacity.http2 import FORGOTTEN, LOST, CapacityError, Connection
from kanserve.system import resources

PATIENCE = 5.0  # seconds that late responses have after the last request
PR_SET_TIMERSLACK, SLACK = 29, 1000  # of prctl(2), in nanoseconds
URGENT = -10  # niceness, which only a privileged user may set
POLL = 0.01  # seconds of the longest sleep
CLOSE = 0.0001  # seconds before the next request in which the generator polls without a sleep
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The server and the request.

    places       HOST:PORT of each server
    block        header block of the request in hexadecimal digits
    message      the message in hexadecimal digits
    connections  number of connections, which take turns
    secure       whether the servers use TLS, with the next four
    """

    places: tuple[str, ...]
    block: str
    message: str
    connections: int = 8
    secure: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""

    def context(self) -> ssl.SSLContext | None:
        """Context of TLS; None without it."""
        if not self.secure:
            return None
        context = ssl.create_default_context(cafile=self.ca or None)
        if self.cert:
            context.load_cert_chain(self.cert, self.key or None)
        context.set_alpn_protocols(["h2"])
        return context


@dataclass(frozen=True, slots=True)
class Sent:
    """Requests of one measurement, in the order of their due times.

    due      [n], seconds since the begin
    latency  [n], seconds from the due time to the response; NaN without a response
    lag      [n], seconds from the due time until the generator sent the request
    status   [n], gRPC status; LOST if there was no response
    cpu      CPU seconds of the generator
    seconds  time from the begin to the last due time
    """

    due: Floats
    latency: Floats
    lag: Floats
    status: NDArray[np.int64]
    cpu: float
    seconds: float


def poisson(rate: float, start: float, end: float, rng: np.random.Generator) -> Floats:
    """Times of a Poisson process between two times, ascending."""
    return np.asarray(np.sort(rng.uniform(start, end, rng.poisson(rate * (end - start)))))


class Pool:
    """Connections that share the requests of a schedule."""

    def __init__(self, job: Job) -> None:
        self._job, self._tls = job, job.context()
        self._turn, self._broken = 0, 0
        self.connections = [self._connect(at) for at in range(job.connections)]
        # Wait for the settings of every server.
        until = time.monotonic() + 10
        while not all(connection.ready for connection in self.connections):
            self.exchange(0.01)
            if self._broken or time.monotonic() > until:
                raise CapacityError(
                    "the server does not speak HTTP/2 on this port",
                    code="load-protocol",
                    hint="pass the gRPC port of the server",
                )

    def _connect(self, at: int) -> Connection:
        job = self._job
        place = job.places[at % len(job.places)]
        try:
            return Connection(place, bytes.fromhex(job.block), bytes.fromhex(job.message), self._tls, job.server_name)
        except OSError as error:
            raise CapacityError(
                f"no connection to {place}: {error.strerror or error}",
                code="load-connection",
                hint="start the server, or correct --url and the options of TLS",
            ) from error

    def request(self, number: int) -> bool:
        """Give a request to the next connection with a free stream; False if there is none."""
        count = len(self.connections)
        for step in range(count):
            at = (self._turn + step) % count
            if self.connections[at].closing and not self.connections[at].pending:
                self.connections[at].close()
                self.connections[at] = self._connect(at)
            if self.connections[at].free:
                self._turn = at + 1
                self.connections[at].request(number)
                return True
        return False

    def exchange(self, seconds: float) -> list[tuple[int, int]]:
        """Write, wait at most this time for data, and read. Returns the requests that ended, with their statuses."""
        done: list[tuple[int, int]] = []
        for connection in self.connections:
            if connection.writes:
                connection.send()
        by_socket = {connection.socket: connection for connection in self.connections if not connection.broken}
        waiting = [end for end, connection in by_socket.items() if connection.writes]
        readable, _, _ = select.select(by_socket, waiting, [], max(0.0, seconds))
        for end in readable:
            done.extend(by_socket[end].receive())
        for at, connection in enumerate(self.connections):
            if connection.broken:
                self._broken += 1
                connection.close()
                self.connections[at] = self._connect(at)
        return done

    @property
    def pending(self) -> int:
        """Number of requests without a response."""
        return sum(connection.pending for connection in self.connections)

    def run(self, due: Floats) -> Sent:
        """Send a request at each of these times."""
        cpu, record = time.process_time(), _Record(due)
        while not record.due_sent or (self.pending and record.now() < record.last + PATIENCE):
            now = record.now()
            for number in record.ready(now):
                if not self.request(number):
                    record.put_back(number)
                    break
                record.sent[number] = now
            left = record.next_due() - now
            done = self.exchange(0.0 if left < CLOSE else min(left - CLOSE / 2, POLL))
            record.end(done)
        for connection in self.connections:
            connection.forget()
        return record.result(time.process_time() - cpu)


class _Record:
    """Times of the requests of one measurement, in seconds since its begin."""

    def __init__(self, due: Floats) -> None:
        self._array, self._due = due, due.tolist()
        self._at, self._begun = 0, time.perf_counter()
        self.sent, self._ended = [np.nan] * len(due), [np.nan] * len(due)
        self._status = [LOST] * len(due)
        self.last = self._due[-1] if self._due else 0.0

    def now(self) -> float:
        """Seconds since the begin."""
        return time.perf_counter() - self._begun

    @property
    def due_sent(self) -> bool:
        """Whether no request waits to be sent, or the time for late responses has passed."""
        return self._at == len(self._due) or self.now() > self.last + PATIENCE

    def ready(self, now: float) -> Iterator[int]:
        """Numbers of the requests that are due."""
        while self._at < len(self._due) and self._due[self._at] <= now:
            self._at += 1
            yield self._at - 1

    def put_back(self, number: int) -> None:
        """A request that found no free stream; it remains due."""
        self._at = number

    def next_due(self) -> float:
        """Time of the next request; a poll interval from now without one."""
        return self._due[self._at] if self._at < len(self._due) else self.now() + POLL

    def end(self, done: Sequence[tuple[int, int]]) -> None:
        """Requests that ended, with their statuses."""
        now = self.now()
        for number, code in done:
            if number != FORGOTTEN:
                self._ended[number], self._status[number] = now, code

    def result(self, cpu: float) -> Sent:
        """The measurement. `cpu`: CPU seconds of the generator."""
        codes = np.array(self._status, np.int64)
        latency = np.where(codes == LOST, np.nan, np.array(self._ended) - self._array)
        return Sent(self._array, latency, np.array(self.sent) - self._array, codes, cpu, self.last)


def write(out: IO[bytes], result: Sent) -> None:
    """One measurement as a JSON line and an array of float64 [4, n]."""
    facts = {"count": len(result.due), "cpu": result.cpu, "seconds": result.seconds}
    out.write(json.dumps(facts).encode() + b"\n")
    out.write(np.array([result.due, result.latency, result.lag, result.status], "<f8").tobytes())
    out.flush()


def read(source: IO[bytes]) -> Sent:
    """A measurement as `write` wrote it. Raises CapacityError if the process ended, or with its own failure."""
    line = source.readline()
    if not line:
        raise CapacityError("the load generator ended", code="load-generator", hint="free memory, and run it again")
    facts = json.loads(line)
    if "error" in facts:
        raise CapacityError(facts["error"], code=facts["code"], hint=facts["hint"])
    data = np.frombuffer(source.read(32 * facts["count"]), "<f8").reshape(4, facts["count"])
    return Sent(data[0], data[1], data[2], data[3].astype(np.int64), facts["cpu"], facts["seconds"])


class Generator:
    """The process of the load generator, for use in a `with` statement.

    cores  the cores on which it runs; empty: all
    """

    def __init__(self, job: Job, cores: Sequence[int] = ()) -> None:
        command = [sys.executable, "-P", "-m", "kanserve.contrib.capacity.generator"]
        pipe = subprocess.PIPE
        # In its own session, because Ctrl-C is for this process, which then ends the other.
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        if cores:
            os.sched_setaffinity(self._process.pid, cores)
        self._seed = 0
        self._tell(asdict(job))

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def _tell(self, document: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `read` reports it
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()

    def send(self, rate: float, seconds: float) -> Sent:
        """Send requests at a mean rate per second. Raises CapacityError."""
        assert self._process.stdout is not None
        self._seed += 1
        self._tell({"rate": rate, "seconds": seconds, "seed": self._seed})
        return read(self._process.stdout)


def main(source: IO[bytes], out: IO[bytes]) -> None:
    """Run the measurements of the lines of `source`."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, SLACK, 0, 0, 0)
    resources.short_slice()
    with contextlib.suppress(PermissionError):  # a client on another machine would not wait for a core
        os.setpriority(os.PRIO_PROCESS, 0, URGENT)
    gc.disable()
    try:
        job = source.readline()
        if not job:  # Ctrl-C ended the command before it sent one
            return
        pool = Pool(Job(**json.loads(job)))
        for line in source:
            task = json.loads(line)
            rng = np.random.default_rng(task["seed"])
            write(out, pool.run(poisson(task["rate"], 0.0, task["seconds"], rng)))
            gc.collect()
    except CapacityError as error:
        out.write(json.dumps({"error": str(error), "code": error.code, "hint": error.hint}).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
