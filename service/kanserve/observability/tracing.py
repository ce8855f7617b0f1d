"""OpenTelemetry tracing: a span per call, with child spans for its queue time and its execution, exported by OTLP.

`build(version)` makes the tracer if the setting `traces` is on; only then are the libraries imported.
`tracing.unary(name, method)` returns the traced method.

Standard variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER, OTEL_SERVICE_NAME, ...) configure the exporter,
the sampler and the service name. If the queue is full or the collector is unreachable, spans are lost, but no calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kanserve.errors import ConfigError
from kanserve.observability import logs
from kanserve.observability.metrics import ModelMetrics
from kanserve.observability.statistics import TRACE, Run, Timing, Trace

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DIRECT: Any = (("grpc.enable_http_proxy", 0),)
UNSAMPLED = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")  # valid traceparent
RATIO = re.compile(r"(?:ParentBased\{root:)?TraceIdRatioBased\{([^}]+)\}")  # descriptions, as OpenTelemetry specifies
LAST = 3.0  # seconds for the spans that wait at the end
# Codes of server errors, by OpenTelemetry's conventions for RPC.
FAULTS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")

A = TypeVar("A")
Metadata = Iterable[tuple[str, str | bytes]]
Outcome = Callable[[BaseException], str]


@dataclass(frozen=True, slots=True)
class TracedModelMetrics(ModelMetrics):
    """Series of one version, which also record executions in the trace of a call."""

    def computed(self, rows: int, timing: Timing) -> None:
        """Count one request's part in an execution."""
        ModelMetrics.computed(self, rows, timing)
        self.traced(rows, timing)

    def traced(self, rows: int, timing: Timing) -> None:
        """Note the execution in the trace of the current call."""
        trace = TRACE.get()
        if trace is not None:
            trace.runs.append(Run(rows, timing, time.time_ns()))


class DrawnIds(RandomIdGenerator):  # type: ignore[misc]  # its package has no types here
    """Random ids. `next` has trace ids that are drawn already."""

    def __init__(self) -> None:
        self.next: deque[int] = deque()

    def draw(self) -> int:
        """A new trace id."""
        return int(super().generate_trace_id())

    def generate_trace_id(self) -> int:
        """The id of the next root span."""
        return self.next.popleft() if self.next else self.draw()


def _bound(sampler: Sampler) -> int:
    """Bound of the low 64 bits of a trace id: a root span with a larger id is not sampled. A sampler by ratio compares
    them too, but takes five times as long."""
    ratio = RATIO.match(sampler.get_description())
    return int(TraceIdRatioBased.get_bound_for_rate(float(ratio[1]) if ratio else 1.0))


class Tracing:
    """Tracer of one server. `outcome` returns the code for an error that a call raised."""

    def __init__(self, exporter: SpanExporter, version: str, outcome: Outcome) -> None:
        self._ids = DrawnIds()
        # The resource of all spans. The standard variables take precedence.
        ours = {"service.version": version}
        attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in attributes:
            ours["service.name"] = "kanserve"
        self._provider = TracerProvider(resource=Resource.create(ours), shutdown_on_exit=False, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("kanserve", version)
        self._propagator = TraceContextTextMapPropagator()
        self._outcome = outcome
        self._bound = _bound(self._provider.sampler)

    def samples(self, name: str, traceparent: bytes | None) -> bool:
        """Whether a call to this method with this header gets a span. Without a parent, the sampler decides now, and
        the next root span has the id of this decision."""
        sampler = self._provider.sampler
        if traceparent is not None:
            return not (isinstance(sampler, ParentBased) and UNSAMPLED.fullmatch(traceparent))
        trace_id = self._ids.draw()
        if trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= self._bound:
            return False
        if not sampler.should_sample(None, trace_id, name, SpanKind.SERVER).decision.is_recording():
            return False
        self._ids.next.append(trace_id)
        return True

    def unary(self, name: str, method: Callable[[Any, Any], Awaitable[A]]) -> Callable[[Any, Any], Awaitable[A]]:
        """A method of one message each way, which takes the message and its Arrival."""

        async def traced(data: Any, arrival: Any) -> A:
            with self._span(name, arrival.metadata):
                return await method(data, arrival)

        return traced

    def stream(
        self, name: str, method: Callable[[Any, Any], AsyncIterator[A]]
    ) -> Callable[[Any, Any], AsyncIterator[A]]:
        """A method that responds with a stream."""

        async def traced(messages: Any, arrival: Any) -> AsyncIterator[A]:
            with self._span(name, arrival.metadata):
                async for response in method(messages, arrival):
                    yield response

        return traced

    @contextlib.contextmanager
    def _span(self, name: str, metadata: Metadata) -> Iterator[None]:
        """Context of a call's span."""
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        service, _, method = name.rpartition("/")
        facts = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        if " " in name:
            verb, _, route = name.partition(" ")
            facts = {"http.request.method": verb, "http.route": route}
        span = self._tracer.start_span(name, self._propagator.extract(carrier), SpanKind.SERVER, facts)
        trace = Trace(format_trace_id(span.get_span_context().trace_id))
        TRACE.set(trace)
        try:
            yield
        finally:
            if span.is_recording():
                self._end(span, trace, sys.exc_info()[1])

    def _end(self, span: Span, trace: Trace, error: BaseException | None) -> None:
        """End a span, with child spans for the queue time and the execution. Its attributes are names and numbers only,
        because the text of an error may quote a request."""
        code = "OK" if error is None else self._outcome(error)
        span.set_attribute("kanserve.code", code)
        if code in FAULTS:
            span.set_status(StatusCode.ERROR)
        call = logs.CALL.get()
        if call is not None:
            span.set_attribute("kanserve.request_id", call.request_id)
            for name, value in call.facts.items():
                span.set_attribute(f"kanserve.{name}", value if isinstance(value, int) else str(value))
        context = set_span_in_context(span)
        for run in trace.runs:
            ended = run.ended - run.timing.compute_output
            begun = ended - run.timing.compute_infer
            facts = {"kanserve.rows": run.rows}
            for name, since, until in (("queue", begun - run.timing.queue, begun), ("run", begun, ended)):
                self._tracer.start_span(name, context, attributes=facts, start_time=since).end(until)
        span.end()

    async def close(self) -> None:
        """Send the waiting spans, for LAST seconds at most."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, LAST)


def build(version: str, outcome: Outcome) -> Tracing:
    """The tracer, as the standard variables configure it. Raises ConfigError."""
    return Tracing(_exporter(), version, outcome)


def check() -> None:
    """Check the variables of the exporter and its package. Raises the errors of `build`."""
    _exporter().shutdown()


def _exporter() -> SpanExporter:
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), "grpc")
    try:
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as ByGrpc

            return ByGrpc(channel_options=() if _encrypted() else DIRECT)
        if protocol == "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as ByHttp

            return ByHttp()
    except ImportError as error:
        raise ConfigError(
            f"the trace exporter for {protocol} is not installed: Python finds no {error.name}",
            code="trace-exporter-missing",
            hint=f"run pip install opentelemetry-exporter-otlp-proto-{protocol.partition('/')[0]}",
        ) from error
    raise ConfigError(
        f"unknown trace protocol: {PROTOCOLS[1]} is {protocol[:40]!r}, expected grpc or http/protobuf",
        code="trace-protocol-unknown",
        hint=f"set {PROTOCOLS[1]} to grpc or http/protobuf",
    )


def _encrypted() -> bool:
    """Whether spans go to another machine over TLS: then a proxy of the environment (http_proxy) may forward them."""
    parts = urlsplit(next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), ""))
    return parts.scheme == "https" and parts.hostname not in LOOPBACK
