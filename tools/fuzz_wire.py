"""Fuzzer of a running server with damaged messages and damaged HTTP/2, which accepts only documented responses.

Some clients send mutated messages to every method. Others send mutated frames on separate connections. A well-behaved
client sends valid requests all the time and must get correct responses. The fuzzer checks status codes, error messages
and the server's log. The test suite runs a few thousand of the same cases:

    python -m tools.fuzz_wire --transport asgi --messages 100000 --conversations 20000 --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import random
import re
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from tests.support import attacks, toy_model
from tests.support.server_process import INFERENCE, KAN, Server, request, serving

CONTRACT = {
    *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"),
    *("UNIMPLEMENTED", "FAILED_PRECONDITION"),
}
# Internals that no response may contain: tracebacks, classes, modules, paths, addresses.
LEAK = re.compile(r"Traceback|<class|\bobject at 0x|(?<![\w.])/(?:home|root|usr|tmp|proc)/|\.py\b|\b\w+\.\w+Error\b")
ROWS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
EXTREMES = (b"\x00", b"\xff", b"\x7f", b"\x80" * 9 + b"\x01", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\xc3\x28")
WATCH = "/grpc.health.v1.Health/Watch"
ENDLESS = (WATCH, f"{KAN}WatchStatistics")  # streams that end only with their deadline
OTHERS = {
    "/grpc.health.v1.Health/Check": health_pb2.HealthCheckRequest(service="toy"),
    WATCH: health_pb2.HealthCheckRequest(service="toy"),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": reflection_pb2.ServerReflectionRequest(
        file_containing_symbol="inference.GRPCInferenceService"
    ),
    "/no.such.Service/Method": pb.ModelReadyRequest(name="toy"),
}
MESSAGES_AT_ONCE, CONVERSATIONS_AT_ONCE = 16, 4


@dataclasses.dataclass
class Report:
    """Result of a fuzz run: status codes of calls, outcomes of conversations, valid probes, and violations."""

    codes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    conversations: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    probes: int = 0
    findings: list[str] = dataclasses.field(default_factory=list)


def seeds() -> dict[str, list[bytes]]:
    """Valid messages of every method, by path."""
    result: dict[str, list[bytes]] = {path: [message.SerializeToString()] for path, message in OTHERS.items()}
    for prefix, file in ((INFERENCE, pb), (KAN, kan_pb2)):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                message = getattr(file, method.input_type.name)()
                for name in ("name", "model_name"):
                    if name in method.input_type.fields_by_name:
                        setattr(message, name, "toy")
                result[prefix + method.name] = [message.SerializeToString()]
    typed = pb.ModelInferRequest(model_name="toy")
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
    plain = request(ROWS, id="an id", model_version="1")
    plain.parameters["priority"].int64_param = 1
    plain.outputs.add(name="y")
    rows: Any = {"model_name": "toy", "rows": ROWS.tobytes(), "row_count": 4}
    requested = {
        "QueryEdges": kan_pb2.QueryEdgesRequest(**rows, layers=[0], top_k=2, per_row=True, residual=True),
        "StreamEdges": kan_pb2.QueryEdgesRequest(**rows, path_from=1, path_to=0, reductions=["histogram"], bins=4),
        "GetCurves": kan_pb2.GetCurvesRequest(model_name="toy", layers=[0], points=5, low=-1, high=1, derivative=True),
        "Explain": kan_pb2.ExplainRequest(**rows, reference="zeros", outputs=[1]),
        "EdgeScores": kan_pb2.EdgeScoresRequest(**rows),
    }
    result[f"{INFERENCE}ModelInfer"] += [item.SerializeToString() for item in (typed, plain, request(ROWS))] * 3
    result[f"{INFERENCE}ModelStreamInfer"] += [request(ROWS).SerializeToString()]
    for name, message in requested.items():
        result[KAN + name] += [message.SerializeToString()] * 3
    return result


def streams() -> set[str]:
    """The paths of the methods with a stream of requests or of responses."""
    services = (*pb.DESCRIPTOR.services_by_name.values(), *kan_pb2.DESCRIPTOR.services_by_name.values())
    ours = {
        f"/{service.full_name}/{method.name}"
        for service in services
        for method in service.methods
        if method.client_streaming or method.server_streaming
    }
    return ours | {path for path in OTHERS if path == WATCH or "Reflection" in path}


def mutated(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to four changes of the bytes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        data = rng.choice(
            (
                lambda d, a, e: d[:a] + bytes([rng.randrange(256)]) + d[a + 1 :],
                lambda d, a, e: d[:a] + rng.choice(EXTREMES) + d[a + rng.randrange(3) :],
                lambda d, a, e: d[:a] + d[e:],
                lambda d, a, e: d[:e] + d[a:e] * rng.choice((1, 2, 20)) + d[e:],
                lambda d, a, e: d[:a] + rng.randbytes(rng.randrange(12)) + d[a:],
                lambda d, a, e: d[:a],
                lambda d, a, e: d[:a] + rng.choice(others)[a:],
                lambda d, a, e: d[:a] + bytes([d[a] ^ 1 << rng.randrange(8)] if a < len(d) else []) + d[a + 1 :],
            )
        )(data, at, end)
    return data[:100_000]


def conversation(rng: random.Random, messages: list[bytes]) -> bytes:
    """A client's side of HTTP/2 with something wrong in it."""
    message = rng.choice(messages)
    framed = rng.choice((b"\x00", b"\x00", b"\x01", b"\x07")) + struct.pack(">I", len(message)) + message
    more = [(rng.choice(("x-a", "grpc-timeout", "grpc-encoding", "te", "a-bin")), rng.choice(("1S", "gzip", "é", "=")))]
    frames = [
        attacks.frame(
            attacks.SETTINGS, 0, 0, rng.choice((b"", struct.pack(">HI", rng.randrange(9), rng.getrandbits(32))))
        ),
        attacks.frame(attacks.HEADERS, 4, 1, attacks.headers(more if rng.random() < 0.5 else None)),
        attacks.frame(attacks.DATA, rng.choice((0, 1)), 1, framed[: rng.randrange(len(framed) + 1)]),
        attacks.frame(rng.randrange(12), rng.randrange(256), rng.choice((0, 1, 2, 3, 2**31 - 1)), rng.randbytes(9)),
    ]
    if rng.random() < 0.5:
        rng.shuffle(frames)
    said = attacks.PREFACE * rng.choice((0, 1, 1, 1, 1, 1, 2)) + b"".join(frames)
    return mutated(rng, said, [said]) if rng.random() < 0.7 else said


STREAMS = streams()


async def call(channel: grpc.aio.Channel, path: str, data: bytes) -> tuple[str, str]:
    """The code and the words of one call's end."""
    try:
        if path in STREAMS:
            async for _ in channel.unary_stream(path)(data, timeout=0.1 if path in ENDLESS else 20):
                pass
        else:
            await channel.unary_unary(path)(data, timeout=20)
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


async def send_messages(address: str, rng: random.Random, todo: Iterator[int], report: Report) -> None:
    """Mutated messages to every method, until `todo` ends."""
    by_path = seeds()
    weights = [0.02 if path == WATCH else len(by_path[path]) for path in by_path]
    everything = [message for messages in by_path.values() for message in messages]
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        for number in todo:
            (path,) = rng.choices(list(by_path), weights)
            data = mutated(rng, rng.choice(by_path[path]), everything)
            code, words = await call(channel, path, data)
            report.codes[code] += 1
            if code not in CONTRACT or LEAK.search(words):
                report.findings.append(f"message {number}, {path}: {code} {words!r} to {data.hex()}")


async def converse(port: int, rng: random.Random, todo: Iterator[int], report: Report) -> None:
    """Mutated connections, until `todo` ends."""
    messages = seeds()[f"{INFERENCE}ModelInfer"]
    for _ in todo:
        end = "left"
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(conversation(rng, messages))
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        while await reader.read(65536):
                            pass
                        end = "closed"
            finally:
                writer.close()
        report.conversations[end] += 1


async def probe(address: str, ended: asyncio.Event, report: Report) -> None:
    """A well-behaved client: the same request must return the same response each time."""
    data, expected = request(ROWS).SerializeToString(), None
    async with grpc.aio.insecure_channel(address) as channel:
        while not ended.is_set():
            try:
                answer = await channel.unary_unary(f"{INFERENCE}ModelInfer")(data, timeout=20)
                result = pb.ModelInferResponse.FromString(answer).raw_output_contents[0]
                expected = expected or result
                if result != expected:
                    report.findings.append("the probe got another answer")
            except grpc.aio.AioRpcError as error:
                report.findings.append(f"the probe: {error.code().name} {error.details()!r}")
            report.probes += 1
            await asyncio.sleep(0.01)


async def fuzz(server: Server, seed: int, *, messages: int, conversations: int) -> Report:
    """Both at once."""
    report, ended = Report(), asyncio.Event()
    good = asyncio.create_task(probe(server.address, ended, report))
    numbers, talks = iter(range(messages)), iter(range(conversations))
    await asyncio.gather(
        *(send_messages(server.address, random.Random(seed + at), numbers, report) for at in range(MESSAGES_AT_ONCE)),
        *(converse(server.port, random.Random(-seed - at), talks, report) for at in range(CONVERSATIONS_AT_ONCE)),
    )
    ended.set()
    await good
    if server.process.poll() is not None:
        report.findings.append(f"the server ended: {server.process.poll()}")
    said = [line for line in server.lines() if line.get("level") == "error" and line.get("component")]
    report.findings += [f"the log has {line}" for line in said]
    return report


def main() -> int:
    """1 with findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=("asgi", "grpcio"), default="asgi")
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--conversations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        toy_model.write(Path(folder))
        with serving(Path(folder), transport=args.transport, reflection=True, access_log="none") as server:
            begun = time.monotonic()
            report = asyncio.run(fuzz(server, args.seed, messages=args.messages, conversations=args.conversations))
            print(f"{args.transport}, seed {args.seed}, {time.monotonic() - begun:.0f} s: {dict(report.codes)}")
            print(f"conversations {dict(report.conversations)}, probes {report.probes}")
    for finding in report.findings[:50]:
        print(finding)
    print(f"{len(report.findings)} findings")
    return int(bool(report.findings))


if __name__ == "__main__":
    raise SystemExit(main())
