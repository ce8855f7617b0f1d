"""CPU time of a request in each layer of the server, without sockets.

    python benchmarks/request_path.py [--concurrency 32] [--rounds 25]

The script calls the ASGI application in this process with the arguments and tasks of h2corn, with concurrent requests.
It repeats the calls with a method that responds at once in place of the service's, and with an application that does
nothing. The differences are the costs of the layers. The figures are CPU microseconds per request, the best of several
rounds, because other load on the machine increases all of them. A profile (cProfile) follows, which includes its own
cost.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "service"), str(ROOT)]

import scale  # noqa: E402 - beside this file

from kanserve.config.settings import Settings  # noqa: E402 - as above
from kanserve.grpc_api.call_context import RequestMetadata  # noqa: E402 - as above
from kanserve.grpc_api.interceptor import Unary  # noqa: E402 - as above
from kanserve.grpc_api.services import Services  # noqa: E402 - as above
from kanserve.pb import grpc_service_pb2 as pb  # noqa: E402 - as above
from kanserve.server import app  # noqa: E402 - the path is made above
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
REQUESTS = 3200  # of a round
Ask = Callable[[], Awaitable[None]]


class NoDoor:
    """A stand-in for a transport that stores its services and opens no port."""

    tls = None

    def __init__(self, services: Services) -> None:
        self.services = services

    async def start(self) -> factory.Ports:
        """Nowhere."""
        return factory.Ports(0, None)

    async def stop(self, grace: float | None) -> None:
        """At once."""


def message() -> bytes:
    """A ModelInferRequest of one row."""
    request = pb.ModelInferRequest(model_name="model")
    request.inputs.add(name="x", datatype="FP32", shape=[1, WIDTHS[0]])
    request.raw_input_contents.append(np.full((1, WIDTHS[0]), 0.25, np.float32).tobytes())
    return request.SerializeToString()


def through(application: GrpcApp, data: bytes) -> Ask:
    """One request as h2corn would hand it over."""
    event = {"type": "http.request", "body": b"\0" + len(data).to_bytes(4, "big") + data, "more_body": False}
    scope = {"type": "http", "method": "POST", "path": INFER, "headers": list(HEADERS.items()), "http_version": "2"}

    async def receive() -> Any:
        return event

    async def send(event: Any) -> None:
        pass

    async def ask() -> None:
        await application(dict(scope), receive, send)

    return ask


async def cost(ask: Ask, concurrency: int, rounds: int) -> float:
    """CPU microseconds of one."""

    async def client(times: int) -> None:
        for _ in range(times):
            await asyncio.ensure_future(ask())

    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        await asyncio.gather(*(client(REQUESTS // concurrency) for _ in range(concurrency)))
        best = min(best, time.process_time() - begun)
    return best / (REQUESTS // concurrency * concurrency) * 1e6


async def nothing() -> None:
    """An empty request, which measures the cost of the tasks themselves."""


async def no_pages(scope: Any, receive: Any, send: Any) -> None:
    """The benchmark uses no HTTP route."""


async def measure(repository: Path, concurrency: int, rounds: int) -> None:
    """Print the layers, and the profile."""
    kept: list[NoDoor] = []

    def build(settings: Settings, services: Services, pages: Any) -> Any:
        kept.append(NoDoor(services))
        return kept[-1]

    factory.build = build
    application = app.App(Settings(repository=repository, metrics_port=0))
    await application.load(asyncio.Event())
    services, data = kept[0].services, message()
    method = services.methods[INFER]
    assert isinstance(method, Unary)
    answer = await method.answer(data, RequestMetadata((), None))

    async def at_once(data: bytes, arrival: RequestMetadata) -> bytes:
        return answer

    limits = Limits(2**22, 5.0, 1024)
    bare = Services(
        {**services.methods, INFER: Unary(at_once, method.refused)},
        services.unknown,
        services.hold,
        services.open_request,
        services.hold_responses,
    )
    whole = through(GrpcApp(services, limits, no_pages, watch=False), data)
    transport = through(GrpcApp(bare, limits, no_pages, watch=False), data)
    tasks, transports, all_of_it = [await cost(ask, concurrency, rounds) for ask in (nothing, transport, whole)]
    for name, spent in (
        ("tasks", tasks),
        ("transport", transports - tasks),
        ("guard, service, graph", all_of_it - transports),
    ):
        print(f"{name:<24}{spent:6.1f} us")
    print(f"{'together':<24}{all_of_it:6.1f} us")
    with cProfile.Profile() as profile:
        await cost(whole, concurrency, 1)
    pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Export a small network, serve it without a port."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        scale.export(scale.write(scale.Shape(WIDTHS, 5), Path(place)), Path(place) / "models")
        asyncio.run(measure(Path(place) / "models", args.concurrency, args.rounds))


if __name__ == "__main__":
    main()
