"""One server under measurement: the load generator, the processes of the server and its metrics."""

from __future__ import annotations

import contextlib
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kanserve.cli.doctor.server_checks import Source
from kanserve.client.calls import Call
from kanserve.client.results import InferenceResult
from kanserve.client.targets import Target
from kanserve.contrib.capacity import http2, measure, usage
from kanserve.contrib.capacity.generator import Generator, Job
from kanserve.contrib.capacity.http2 import CapacityError
from kanserve.contrib.capacity.measure import Level, Usage

CALLS = 20  # sequential requests for the first latency
WARM_RATE, WARM_SECONDS = 200.0, 0.5  # the rate at most
EXECUTIONS = re.compile(r'^nv_inference_exec_count\{(?:[^}]*,)?model="([^"]*)"[^}]*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the generator reaches a server.

    target    the address of one server
    fields    metadata of each request
    tls       fields of `Job` for TLS; empty without it
    metrics   HOST:PORT of the metrics; "": unknown
    """

    target: Target
    fields: Sequence[tuple[str, str]] = ()
    tls: Mapping[str, Any] = field(default_factory=dict)
    metrics: str = ""

    def job(self, call: Call[InferenceResult], connections: int) -> Job:
        """The job of the generator for a request."""
        name = self.tls.get("server_name") or self.target.places[0]
        block = http2.head(call.path, name, secure=bool(self.tls), fields=self.fields).hex()
        message = call.data.hex()
        return Job(places=self.target.places, block=block, message=message, connections=connections, **self.tls)


class Probe:
    """Measurements of one server.

    pids  processes of the server on this machine; empty if they are unknown
    """

    def __init__(self, generator: Generator, model: str, metrics: str, pids: frozenset[int]) -> None:
        self._generator, self._model, self._metrics, self.pids = generator, model, metrics, pids

    def measure(self, rate: float, seconds: float) -> Level:
        """Measure one rate. Raises CapacityError."""
        before, begun = self._usage(), time.monotonic()
        sent = self._generator.send(rate, seconds)
        return measure.level(sent, before, self._usage(), time.monotonic() - begun)

    def _usage(self) -> Usage:
        cpu = usage.cpu_seconds(self.pids) if self.pids else math.nan
        machine = usage.machine_seconds() if self.pids else math.nan
        return Usage(cpu, machine, executions(self._metrics, self._model) if self._metrics else math.nan)

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the server; 0 if it is unknown."""
        return usage.peak_bytes(self.pids)


def executions(metrics: str, model: str) -> float:
    """Number of executions of a model's graph so far, from the metrics at HOST:PORT. NaN if it is unknown."""
    try:
        text = Source(metrics).read()
    except (OSError, ValueError):
        return math.nan
    counts = [float(value) for name, value in EXECUTIONS.findall(text) if name == model]
    return sum(counts) if counts else math.nan


def first_latency(request: Callable[[], object]) -> float:
    """Median seconds of sequential requests."""
    seconds = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        request()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


@contextlib.contextmanager
def probe(
    access: Access, call: Call[InferenceResult], model: str, *, latency: float, cores: Sequence[int], connections: int
) -> Iterator[Probe]:
    """Measurements of the server at an address, after a warm-up. Raises CapacityError.

    latency      seconds of one request without load
    cores        cores of the generator; empty: all
    connections  number of connections of the generator
    """
    place = access.target.places[0]
    port = place.rpartition(":")[2]
    if not port.isdecimal():
        raise CapacityError(
            f"the load generator cannot connect to {place}, expected HOST:PORT",
            code="load-connection",
            hint="pass the address of one server with --url HOST:PORT",
        )
    pids = usage.listeners(int(port)) if access.target.local else frozenset[int]()
    with Generator(access.job(call, connections), cores) as generator:
        generator.send(min(WARM_RATE, 0.5 / latency), WARM_SECONDS)
        yield Probe(generator, model, access.metrics, pids)
