"""Every method of every service behind the guard: the table that a door serves."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from google.protobuf.descriptor import ServiceDescriptor

from kanserve.observe.metrics import UNKNOWN
from kanserve.rpc import bounded, health, reflection
from kanserve.rpc.call import Arrival
from kanserve.rpc.guard import Guard, Guarded, Kind, StreamMethod, UnaryMethod
from kanserve.rpc.health import Health
from kanserve.rpc.inference import InferenceService
from kanserve.rpc.kan import KanService
from kanserve.rpc.reflection import Reflection
from kanserve.rpc.stream import InferStream
from kanserve.rpc.unfinished import Part

STREAM = "ModelStreamInfer"
NONE: Mapping[str, StreamMethod] = {}
NAMES = (InferenceService.descriptor.full_name, KanService.descriptor.full_name)


@dataclass(frozen=True, slots=True)
class Services:
    """`methods` by path, such as /grpc.health.v1.Health/Check; `unknown` answers for any other path.
    `hold`: that many bytes of an answer wait for their caller, or wait no more; `part`: the account of a request that
    has not arrived completely, by connection, address and `Arrival`; `apart`: a context in which calls that
    end wait, so many seconds before and after what is done there, so that nobody asks again in that moment."""

    methods: Mapping[str, Guarded]
    unknown: Guarded
    hold: Callable[[int], None]
    part: Callable[[Hashable, str, Arrival], Part]
    apart: Callable[[float], AbstractAsyncContextManager[None]]


def guarded(
    guard: Guard,
    inference: InferenceService,
    kan: KanService,
    probes: Health,
    mirror: Reflection | None,
    *,
    max_stream_requests: int,
) -> Services:
    """All methods. `mirror` None: reflection is not offered."""
    methods: dict[str, Guarded] = {}
    methods |= _service(guard, inference.descriptor, inference.methods())
    infer = bounded.within(inference.model_infer, guard.max_seconds, f"{NAMES[0]}/{STREAM}")
    stream = InferStream(guard, infer, max_stream_requests)
    methods[f"/{NAMES[0]}/{STREAM}"] = guard.stream(NAMES[0], STREAM, Kind.BIDI_STREAM, stream.answers)
    methods |= _service(guard, kan.descriptor, kan.methods(), kan.streams())
    methods[f"/{health.SERVICE}/Check"] = guard.unary(health.SERVICE, "Check", probes.check, probe=True)
    methods[f"/{health.SERVICE}/Watch"] = guard.stream(
        health.SERVICE, "Watch", Kind.SERVER_STREAM, probes.watch, probe=True
    )
    if mirror is not None:
        for name in reflection.SERVICES:
            methods[f"/{name}/{reflection.METHOD}"] = guard.stream(
                name, reflection.METHOD, Kind.BIDI_STREAM, mirror.info, probe=True
            )
    return Services(methods, guard.refusal(UNKNOWN, UNKNOWN), guard.hold, guard.part, guard.apart)


def _service(
    guard: Guard,
    descriptor: ServiceDescriptor,
    methods: Mapping[str, UnaryMethod],
    streams: Mapping[str, StreamMethod] = NONE,
) -> dict[str, Guarded]:
    """One entry per method of the descriptor, those without an implementation refused."""
    table: dict[str, Guarded] = {}
    for method in descriptor.methods:
        path = f"/{descriptor.full_name}/{method.name}"
        if method.name in methods:
            table[path] = guard.unary(descriptor.full_name, method.name, methods[method.name])
        elif method.name in streams:
            kind = Kind.SERVER_STREAM
            table[path] = guard.stream(descriptor.full_name, method.name, kind, streams[method.name])
        else:
            streaming = method.client_streaming or method.server_streaming
            table[path] = guard.refusal(descriptor.full_name, method.name, streaming=streaming)
    return table
