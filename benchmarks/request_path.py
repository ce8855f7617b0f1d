"""CPU time or instructions of a request in each layer of the server, without sockets.

    python benchmarks/request_path.py [--concurrency 1 32] [--rounds 25] [--instructions]

The script calls the ASGI application in this process with the arguments and tasks of h2corn, with concurrent requests.
It repeats the calls with constants in place of parts of the server, from the outside to the inside. The differences are
the costs of the layers. The figures are CPU microseconds per request, the best of several rounds, because other load
on the machine increases all of them. With `--instructions` they are instructions per request, which callgrind counts
in a second process, and a table by object file follows.

A request takes one of two paths: `Python`, and `native` with the module kanserve_kernel.calls.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import tempfile
import time
from collections import Counter as Sum
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "service"), str(ROOT)]

import instructions  # noqa: E402 - beside this file
import scale  # noqa: E402 - beside this file

from kanserve.config.settings import Settings  # noqa: E402 - as above
from kanserve.grpc_api.call_context import RequestMetadata  # noqa: E402 - as above
from kanserve.grpc_api.hot_path.batch import Batches  # noqa: E402 - as above
from kanserve.grpc_api.interceptor import Unary  # noqa: E402 - as above
from kanserve.grpc_api.services import Services  # noqa: E402 - as above
from kanserve.pb import grpc_service_pb2 as pb  # noqa: E402 - as above
from kanserve.server import app  # noqa: E402 - the path is made above
from kanserve.services.inference import Execution  # noqa: E402 - as above
from kanserve.transport import factory  # noqa: E402 - as above
from kanserve.transport.asgi import GrpcApp, Limits  # noqa: E402 - as above

INFER = "/inference.GRPCInferenceService/ModelInfer"
WIDTHS = (4, 8, 1)
HEADERS = {
    b"content-type": b"application/grpc",
    b"te": b"trailers",
    b"grpc-accept-encoding": b"identity, deflate, gzip",
    b"user-agent": b"grpc-c++/1.54.3 (linux; chttp2)",
}
MORE = {b"grpc-timeout": b"1S", b"x-request-id": b"benchmark-0123456789"}
REQUESTS = 3200  # of a round
COUNTED = 640  # of a phase with callgrind
TASKS, TRANSPORT, HEAD = "asyncio tasks", "transport", "guard, known head"
QUEUE, RUN, METRICS = "queue, joining, response", "run of the graph", "counters, statistics"
LAYERS = (TASKS, TRANSPORT, HEAD, QUEUE, RUN, METRICS)
PYTHON, NATIVE = FORMS = ("Python", "native")
OBJECTS = {
    "libpython": "Python interpreter",
    "python3": "Python interpreter",
    "_asyncio": "asyncio (C)",
    "calls": "kanserve_kernel.calls",
    "onnxruntime": "onnxruntime",
    "libkanserve": "custom operator",
    "_multiarray": "numpy",
    "libc.": "libc",
    "libm.": "libc",
    "libstdc++": "libstdc++",
}
Ask = Callable[[], Coroutine[Any, Any, None]]  # what h2corn makes a task of
Costs = dict[tuple[int, str, str], float]  # by concurrency, form and layer, of a request with all outer layers


class NoDoor:
    """A stand-in for a transport that stores its services and opens no port."""

    tls = None

    def __init__(self, services: Services) -> None:
        self.services = services

    async def start(self) -> dict[str, int]:
        """Nowhere."""
        return {"grpc": 0}

    async def stop(self, grace: float | None) -> None:
        """At once."""


def message() -> bytes:
    """A ModelInferRequest of one row."""
    request = pb.ModelInferRequest(model_name="model")
    request.inputs.add(name="x", datatype="FP32", shape=[1, WIDTHS[0]])
    request.raw_input_contents.append(np.full((1, WIDTHS[0]), 0.25, np.float32).tobytes())
    return request.SerializeToString()


def through(application: Any, data: bytes, headers: Mapping[bytes, bytes]) -> Ask:
    """One request as h2corn would hand it over."""
    event = {"type": "http.request", "body": b"\0" + len(data).to_bytes(4, "big") + data, "more_body": False}
    scope = {"type": "http", "method": "POST", "path": INFER, "headers": list(headers.items()), "http_version": "2"}

    async def receive() -> Any:
        return event

    async def send(event: Any) -> None:
        pass

    return lambda: application(dict(scope), receive, send)


async def requests(ask: Ask, concurrency: int, count: int) -> int:
    """Make about `count` requests. Returns their number."""

    async def client(times: int) -> None:
        for _ in range(times):
            await asyncio.get_running_loop().create_task(ask())

    await asyncio.gather(*(client(count // concurrency) for _ in range(concurrency)))
    return count // concurrency * concurrency


async def cost(ask: Ask, concurrency: int, rounds: int) -> float:
    """CPU microseconds of one."""
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        made = await requests(ask, concurrency, REQUESTS)
        best = min(best, (time.process_time() - begun) / made)
    return best * 1e6


async def nothing() -> None:
    """An empty request, which measures the cost of the tasks themselves."""


async def no_pages(scope: Any, receive: Any, send: Any) -> None:
    """The benchmark uses no HTTP route."""


class Server:
    """Server without a port. Constants can replace some of its parts."""

    def __init__(self, services: Services) -> None:
        method = services.methods[INFER]
        assert isinstance(method, Unary)
        self.services, self.method, self.data = services, method, message()
        self.native = services.hot.native
        self._parts = {name: getattr(Batches, name) for name in ("submit", "_computed", "_count")}
        self.answer = b""

    async def learned(self) -> None:
        """Store the response, which constants need."""
        self.answer = await self.method.respond(self.data, RequestMetadata((), None))

    def _application(self, form: str, layer: str) -> Any:
        method, hot = self.method, self.services.hot
        hot.native = self.native if form == NATIVE else None

        async def at_once(data: bytes, arrival: RequestMetadata) -> bytes:
            return self.answer

        if layer == TRANSPORT:
            method = dataclasses.replace(method, respond=at_once)
        services = dataclasses.replace(self.services, methods={**self.services.methods, INFER: method})
        return GrpcApp(services, Limits(2**22, 5.0, 1024), no_pages, watch=False)

    async def request(self, form: str, layer: str) -> Ask:
        """A request of this form, with constants inside of `layer`."""
        asyncio.get_running_loop().set_task_factory(None)
        if layer == TASKS:
            return nothing
        for name, part in (self._parts | self._constants(layer)).items():
            setattr(Batches, name, part)
        self.services.hot.forget()
        application = self._application(form, layer)
        asyncio.get_running_loop().set_task_factory(application.task_factory)
        ask = through(application.application, self.data, HEADERS | MORE)
        for _ in range(3):
            await self.method.respond(self.data, RequestMetadata((), None))
            await asyncio.get_running_loop().create_task(ask())
        return ask

    def _constants(self, layer: str) -> dict[str, Any]:
        """Functions of `Batches` without the layers inside of `layer`."""
        at, output, done = LAYERS.index(layer), self.answer[-4:], asyncio.get_running_loop().create_future()
        done.set_result((self.answer, 0, 0))
        arrays: dict[int, list[Any]] = {}

        def submit(batches: Any, raws: Sequence[bytes], id: bytes, deadline: float | None) -> Any:
            return done

        def computed(batches: Any, feeds: Any, rows: int) -> list[Any]:
            if rows not in arrays:
                arrays[rows] = [np.frombuffer(output * rows, np.float32).reshape(rows, 1)]
            return arrays[rows]

        def count(batches: Any, batch: Execution, answered: int, calls: Sequence[Any], size: int) -> None:
            executor = batches._executor
            executor._calm = executor._calm + 1 if len(batch.arrived) == 1 else 0
            if calls:
                batches._account.begun(-len(calls), -size)

        replaced: dict[str, Any] = {}
        if at < LAYERS.index(QUEUE):
            replaced["submit"] = submit
        if at < LAYERS.index(RUN):
            replaced["_computed"] = computed
        if at < LAYERS.index(METRICS):
            replaced["_count"] = count
        return replaced


async def served(repository: Path) -> Server:
    """A server of the model in this process."""
    kept: list[NoDoor] = []

    def build(settings: Settings, services: Services, pages: Any) -> Any:
        kept.append(NoDoor(services))
        return kept[-1]

    factory.build = build
    # An execution under valgrind takes longer than the default limit of those on the event loop.
    settings = Settings(repository=repository, metrics_port=0, load_check=False, inline_run_seconds=1.0)
    application = app.App(settings)
    await application.load(asyncio.Event())
    server = Server(kept[0].services)
    await server.learned()
    return server


def steps(server: Server, form: str) -> tuple[str, ...]:
    """Layers of a form. The native module makes no task, and has no borders between the transport, the known head and
    the queue."""
    if form == NATIVE and server.native is None:
        return ()
    return tuple(layer for layer in LAYERS if form != NATIVE or layer not in (TASKS, TRANSPORT, HEAD))


async def timed(repository: Path, concurrencies: Sequence[int], rounds: int) -> Costs:
    """CPU microseconds of a request with each layer and all outer ones."""
    server, costs = await served(repository), Costs()
    for concurrency in concurrencies:
        for form in FORMS:
            for layer in steps(server, form):
                costs[concurrency, form, layer] = await cost(await server.request(form, layer), concurrency, rounds)
    return costs


async def counted(repository: Path, concurrencies: Sequence[int], folder: Path) -> None:
    """Count the same layers in instructions, in a process under callgrind."""
    server, counter = await served(repository), instructions.Counter(folder)
    for concurrency in concurrencies:
        for form in FORMS:
            for layer in steps(server, form):
                ask = await server.request(form, layer)
                await requests(ask, concurrency, COUNTED)
                counter.begin()
                made = await requests(ask, concurrency, COUNTED)
                counter.end(f"{concurrency}|{form}|{layer}|{made}")


def table(costs: Costs, concurrency: int, unit: str, digits: int) -> str:
    """Costs of each layer by itself."""
    forms = [form for form in FORMS if (concurrency, form, METRICS) in costs]
    lines = [f"| c = {concurrency}, {unit} per request | {' | '.join(forms)} |", "|---|" + "---|" * len(forms)]
    rows: dict[str, list[str]] = {layer: [] for layer in LAYERS}
    for form in forms:
        outer = 0.0
        for layer in LAYERS:
            inner = costs.get((concurrency, form, layer))
            rows[layer].append("in a later row" if inner is None else f"{inner - outer:.{digits}f}")
            outer = outer if inner is None else inner
    lines += [f"| {layer} | {' | '.join(cells)} |" for layer, cells in rows.items()]
    whole = " | ".join(f"{costs[concurrency, form, METRICS]:.{digits}f}" for form in forms)
    return "\n".join([*lines, f"| total | {whole} |"])


def objects(counts: Mapping[tuple[int, str], Mapping[tuple[str, str], int]], unit: str) -> str:
    """Share of each object file in whole requests."""
    sums = {whole: Sum[str]() for whole in counts}
    for whole, costs in counts.items():
        for (file, _), count in costs.items():
            sums[whole][next((name for part, name in OBJECTS.items() if part in file), "other")] += count
    names = sorted(
        {name for found in sums.values() for name in found}, key=lambda name: -sum(s[name] for s in sums.values())
    )
    heads = [f"c = {concurrency}, {form}" for concurrency, form in sums]
    lines = [f"| share of the {unit} | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name in names:
        lines.append(
            f"| {name} | " + " | ".join(f"{100 * found[name] / found.total():.1f}%" for found in sums.values()) + " |"
        )
    return "\n".join(lines)


def report(folder: Path) -> None:
    """Print the counts of `counted`, and the functions that take most of a request."""
    costs, whole = Costs(), {}
    read = [(name.split("|"), counts) for name, counts in instructions.phases(folder).items()]
    for (concurrency, form, layer, made), counts in sorted(read, key=lambda at: (int(at[0][0]), FORMS.index(at[0][1]))):
        costs[int(concurrency), form, layer] = counts.total() / int(made)
        if layer == METRICS:
            whole[int(concurrency), form] = counts
    for concurrency in sorted({key[0] for key in costs}):
        print(table(costs, concurrency, "instructions", 0), end="\n\n")
    print(objects(whole, "instructions"))
    for (concurrency, form), counts in whole.items():
        print(f"\nc = {concurrency}, {form}: functions with most instructions")
        for (file, function), count in counts.most_common(15):
            print(f"{100 * count / counts.total():5.1f}%  {file}  {function[:80]}")


def main() -> None:
    """Export a small network, serve it without a port."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--instructions", action="store_true", help="count instructions with callgrind")
    parser.add_argument("--counts", type=Path, help=argparse.SUPPRESS)  # folder of the counts, in the second process
    args = parser.parse_args()
    if args.instructions and (reason := instructions.missing()) is not None:
        sys.exit(reason)
    if args.counts is not None:
        asyncio.run(counted(args.counts / "models", args.concurrency, args.counts))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scale.export(scale.write(scale.Shape(WIDTHS, 5), folder), folder / "models")
        if args.instructions:
            instructions.restart(__file__, ["--counts", place, "--concurrency", *map(str, args.concurrency)], folder)
            report(folder)
            return
        costs = asyncio.run(timed(folder / "models", args.concurrency, args.rounds))
        print("\n\n".join(table(costs, concurrency, "CPU us", 1) for concurrency in args.concurrency))


if __name__ == "__main__":
    main()
