"""Compare the simulation of `kanserve plan` with one and with two real servers.

    python benchmarks/capacity.py hello --repository models [--rounds 24] [--rates 200,500,1000,2000]

One server runs on one core, and the load generator on another if there is one. Two servers share the cores of this
machine. The rates are interleaved. For each rate, the script uses the quarter of the windows in which other programs
used the least CPU time, and prints p50 and p99 of all their requests and those of the simulation. The service times are
fitted from the CPU times of the single server. For two servers, the generator and kanserve's client over two addresses
send the requests. The client takes about 0.3 ms of CPU time per request, so its rate is limited by `--client-rate`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from kanserve.cli import inventory, session  # noqa: E402 - after the path
from kanserve.client import calls  # noqa: E402 - after the path
from kanserve.client.sync import Client  # noqa: E402 - after the path
from kanserve.contrib.bench import entrants  # noqa: E402 - after the path
from kanserve.contrib.capacity import http2, measure, probe, queueing, usage  # noqa: E402 - after the path
from kanserve.contrib.capacity.generator import Generator, Job, poisson  # noqa: E402 - after the path
from kanserve.contrib.capacity.measure import Curve, Level, Usage  # noqa: E402 - after the path
from kanserve.contrib.capacity.queueing import Service  # noqa: E402 - after the path

GOAL = 10.0  # seconds: each level is used
OVERLOAD = 20_000.0  # requests per second, for the time of a request in a large batch
DEADLINE = ("grpc-timeout", "30S")


class Bed:
    """Servers under one generator."""

    def __init__(
        self, repository: Path, name: str, stack: contextlib.ExitStack, cores: Sequence[Sequence[int]]
    ) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.facts = [
            stack.enter_context(session.started(repository, folder / str(at), "--drain-delay-seconds", "0", cores=each))
            for at, each in enumerate(cores)
        ]
        self.name, self.places = name, tuple(facts["grpc"] for facts in self.facts)
        self.pids = frozenset[int]().union(*(usage.listeners(int(p.rpartition(":")[2])) for p in self.places))
        _, manifest = inventory.version(repository, name, "")
        self.rows = entrants.drawn(manifest, 1)

    def generator(self, cores: Sequence[int]) -> Generator:
        with Client(self.places[0]) as client:
            call = calls.inference(client.model(self.name), self.rows)
        block = http2.head(call.path, self.places[0], secure=False, fields=[DEADLINE]).hex()
        return Generator(Job(places=self.places, block=block, message=call.data.hex()), cores)

    def usage(self) -> Usage:
        batches = sum(np.nan_to_num(probe.executions(facts["metrics"], self.name)) for facts in self.facts)
        return Usage(usage.cpu_seconds(self.pids), usage.machine_seconds(), float(batches))

    def level(self, load: Generator, rate: float, seconds: float) -> Level:
        before, begun = self.usage(), time.monotonic()
        sent = load.send(rate, seconds)
        return measure.level(sent, before, self.usage(), time.monotonic() - begun)

    def by_client(self, rate: float, seconds: float) -> Level:
        """The same by kanserve's client over all addresses, on threads that wait for each due time."""
        due, pool, lock = (
            poisson(rate, 0.0, seconds, np.random.default_rng(1)),
            ThreadPoolExecutor(32),
            threading.Lock(),
        )
        latency, before, begun = np.full(len(due), np.nan), self.usage(), time.perf_counter()
        with Client(list(self.places)) as client, pool:
            model = client.model(self.name)

            def request(number: int) -> None:
                client.infer(model, self.rows)
                with lock:
                    latency[number] = time.perf_counter() - begun - due[number]

            begun = time.perf_counter()
            for number, at in enumerate(due.tolist()):
                time.sleep(max(0.0, begun + at - time.perf_counter()))
                pool.submit(request, number)
        sent = measure.Sent(due, latency, due * 0, np.where(np.isnan(latency), 2, 0), 0.0, float(due[-1]))
        return measure.level(sent, before, self.usage(), time.perf_counter() - begun)


def calm(levels: Sequence[Level]) -> list[Level]:
    """The quarter of the windows in which other programs used the least CPU time."""
    return sorted(levels, key=lambda item: item.other_cores)[: max(1, len(levels) // 4)]


def pooled(levels: Sequence[Level]) -> dict[str, Any]:
    """Quantiles and p99 of all requests of the calm windows."""
    values = np.quantile(np.concatenate([item.quantiles for item in calm(levels)]), measure.QUANTILES)
    return {"quantiles": tuple(values.tolist()), "p99": float(np.interp(0.99, measure.QUANTILES, values))}


def compared(kind: str, rate: float, levels: Sequence[Level], service: Service) -> str:
    """A row of the table."""
    chosen = calm(levels)
    real = np.quantile(np.concatenate([item.quantiles for item in chosen]), (0.5, 0.99))
    simulated = np.quantile(queueing.simulate(service, rate, 20_000 / rate), (0.5, 0.99))
    others = np.mean([item.other_cores for item in chosen])
    pairs = [f"{1e3 * a:.2f} | {1e3 * b:.2f} | {100 * (b / a - 1):+.0f}%" for a, b in zip(real, simulated, strict=True)]
    return f"| {kind} | {rate:,.0f} | {' | '.join(pairs)} | {others:.2f} |"


def table(args: argparse.Namespace) -> Iterator[str]:
    """Rows of the Markdown table."""
    cores = usage.cores()
    others = cores[1:] or cores
    rates = [float(rate) for rate in args.rates.split(",")]
    with contextlib.ExitStack() as stack:
        bed = Bed(args.repository, args.name, stack, [cores[:1]])
        load = stack.enter_context(bed.generator(others))
        load.send(200.0, 1.0)
        levels = [[bed.level(load, rate, args.seconds) for rate in rates] for _ in range(args.rounds)]
        over = [bed.level(load, OVERLOAD, args.seconds) for _ in range(args.rounds // 4)]
    by_rate = [list(each) for each in zip(*levels, strict=True)]
    quiet = [replace(item, p99=math.inf) for each in [*by_rate, over] for item in calm(each)]  # for CPU times only
    pools = [
        replace(calm(each)[0], offered=rate, achieved=rate, **pooled(each))
        for rate, each in zip(rates, by_rate, strict=True)
    ]
    service = queueing.fit(Curve(GOAL, [*pools, *quiet]), most=1024, limit=256)
    yield f"a batch takes {1e6 * service.batch:.0f} us, and {1e6 * service.request:.0f} us per request"
    for rate, each in zip(rates, by_rate, strict=True):
        yield compared("one server", rate, each, service)
    with contextlib.ExitStack() as stack:
        pair = Bed(args.repository, args.name, stack, [cores[:1], others[:1]])
        load = stack.enter_context(pair.generator(()))
        load.send(200.0, 1.0)
        both = [[pair.level(load, 2 * rate, args.seconds) for rate in rates] for _ in range(args.rounds)]
        for rate, each in zip(rates, zip(*both, strict=True), strict=True):
            yield compared("two servers, generator", rate, each, service)
        for rate in (rate for rate in rates if 2 * rate <= args.client_rate):
            client = [pair.by_client(2 * rate, args.seconds) for _ in range(args.rounds)]
            yield compared("two servers, client", rate, client, service)


def main() -> None:
    """Measure, simulate, print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--repository", type=Path, default=Path("models"))
    parser.add_argument("--rates", default="200,500,1000,2000", help="requests per second and server")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--client-rate", type=float, default=500.0, help="highest rate of kanserve's client")
    args = parser.parse_args()
    print("| setup | requests/s per server | p50 ms | simulated | error | p99 ms | simulated | error | other cores |")
    print("|---|---|---|---|---|---|---|---|---|")
    for line in table(args):
        print(line, flush=True)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
