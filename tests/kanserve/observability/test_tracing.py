"""OpenTelemetry tracing: the spans that an OTLP receiver gets, and no trace of it if tracing is off."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support import toy_model
from tests.support.http_client import infer, tensor
from tests.support.server_process import INFERENCE, START, request, serving
from tests.support.tiers import full
from tests.support.wait import until

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="the extra otel is not installed")

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind

from kanserve.observability.tracing import Tracing

INFER = f"{INFERENCE}ModelInfer"
EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
ROWS = np.full((2, 3), 271.828125, np.float32)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-{flag}") for flag in ("01", "00"))


class Receiver(grpc.GenericRpcHandler):
    """A collector: a server of OTLP by gRPC, which keeps what it gets."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        self.raw = bytearray()
        self._lock = threading.Lock()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return grpc.unary_unary_rpc_method_handler(self.export) if handler_call_details.method == EXPORT else None

    def export(self, data: bytes, context: grpc.ServicerContext) -> bytes:
        with self._lock:
            self.raw += data
            for group in otlp.ExportTraceServiceRequest.FromString(data).resource_spans:
                self.resources.append({item.key: item.value.string_value for item in group.resource.attributes})
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return otlp.ExportTraceServiceResponse().SerializeToString()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    created = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((created,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield created
    server.stop(None)


def facts(span: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


def test_a_call_has_a_span_and_its_wait_and_its_run_have_one(
    tmp_path: Path, receiver: Receiver, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    toy_model.write(tmp_path)
    with serving(tmp_path, traces=True, transport=transport, http_port=0, access_log="all") as server:
        for _ in range(3):  # by the way that learns, and by the one that knows
            data = request(ROWS).SerializeToString()
            server.call(INFER, data, metadata=(SAMPLED, ("x-request-id", "mine")))
        with pytest.raises(grpc.RpcError):
            server.call(INFER, b"\xff\xff", metadata=(SAMPLED,))
        server.call(INFER, data, metadata=(NOT_SAMPLED,))
        server.call(INFER, data)
        infer(server, {"inputs": [tensor(ROWS)]}, traceparent=SAMPLED[1])
        list(server.channel.stream_stream(f"{INFERENCE}ModelStreamInfer")(iter([data]), metadata=(SAMPLED,)))
        server.call("/grpc.health.v1.Health/Check", b"", metadata=(SAMPLED,))
        until(lambda: len(receiver.spans) >= 19)
        until(lambda: sum(line.get("trace_id") == TRACE for line in server.lines()) >= 6)
        assert server.stop() == 0
    assert receiver.resources[0]["service.name"] == "kanserve"
    assert receiver.resources[0]["deployment.environment"] == "test"
    calls = receiver.named("inference.GRPCInferenceService/ModelInfer")
    assert [facts(span)["kanserve.code"] for span in calls] == ["OK"] * 3 + ["INVALID_ARGUMENT", "OK"]
    for call in calls[:3]:
        assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
        assert facts(call)["rpc.method"] == "ModelInfer"
        assert facts(call)["kanserve.request_id"] == "mine"
        assert (facts(call)["kanserve.model"], facts(call)["kanserve.rows"]) == ("toy", 2)
        queue, run = (
            next(span for span in receiver.named(name) if span.parent_span_id == call.span_id)
            for name in ("queue", "run")
        )
        assert {queue.trace_id, run.trace_id} == {call.trace_id}
        assert queue.start_time_unix_nano <= queue.end_time_unix_nano == run.start_time_unix_nano
        assert run.start_time_unix_nano < run.end_time_unix_nano <= call.end_time_unix_nano
    assert calls[4].trace_id.hex() != TRACE  # nobody sent one: it begins here
    (http,) = receiver.named("POST /v2/models/{name}/infer")
    assert (http.parent_span_id.hex(), facts(http)["http.route"]) == (PARENT, "/v2/models/{name}/infer")
    (stream,) = receiver.named("inference.GRPCInferenceService/ModelStreamInfer")
    assert [span.parent_span_id for span in receiver.named("run")].count(stream.span_id) == 1
    assert not [span for span in receiver.spans if "Health" in span.name]
    assert b"271.8" not in receiver.raw
    assert ROWS.tobytes()[:8] not in receiver.raw


def test_what_waits_is_sent_at_the_end(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    toy_model.write(tmp_path)
    with serving(tmp_path, traces=True) as server:
        server.infer(ROWS)
        assert receiver.spans == []
        assert server.stop() == 0
    assert len(receiver.spans) == 3


@full("package")
def test_off_nothing_of_it_is_there(tmp_path: Path, receiver: Receiver) -> None:
    """With tracing off, the server imports no OpenTelemetry module, with any OTEL_* variables."""
    toy_model.write(tmp_path)
    code = START.replace(
        "raise SystemExit",
        "import atexit\natexit.register(lambda: print(sorted(m for m in sys.modules "
        'if "opentelemetry" in m), flush=True))\nraise SystemExit',
    )
    options = {"repository": str(tmp_path), "grpc_port": 0, "metrics_port": 0, "drain_delay_seconds": 0}
    command = [sys.executable, "-c", code, json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        with grpc.insecure_channel(json.loads(process.stdout.readline())["grpc"]) as channel:
            channel.unary_unary(INFER)(request(ROWS).SerializeToString(), timeout=60, metadata=(SAMPLED,))
        process.terminate()
        assert process.wait(60) == 0
        assert process.stdout.read().strip() == "[]"
    assert receiver.spans == []


@full("combination")
def test_workers_are_traced_each_by_itself(tmp_path: Path, receiver: Receiver) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, traces=True, workers=2, threads=2) as server:
        for _ in range(4):
            server.infer(ROWS)
        until(lambda: len(receiver.named("run")) == 4)
        assert server.stop() == 0


@full("peer")
def test_a_collector_that_is_away_costs_spans_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    toy_model.write(tmp_path)
    with serving(tmp_path, traces=True) as server:
        for _ in range(50):
            server.infer(ROWS)
        assert server.stop() == 0
        assert all("event" in line for line in server.lines())


@pytest.mark.parametrize("ratio", ["0", "1e-9", "0.01", "0.5", "1"])
@pytest.mark.parametrize("kind", ["traceidratio", "parentbased_traceidratio", "always_on", "parentbased_always_off"])
def test_native_calls_are_sampled_as_the_sampler_decides(
    monkeypatch: pytest.MonkeyPatch, kind: str, ratio: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", kind)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    tracing = Tracing(InMemorySpanExporter(), "1", str)
    bound = TraceIdRatioBased.get_bound_for_rate(float(ratio))
    sampler = tracing._provider.sampler
    for low in (0, 1, max(bound - 1, 0), bound % 2**64, (bound + 1) % 2**64, 2**64 - 1):
        trace_id = 2**64 + low
        expected = sampler.should_sample(None, trace_id, "name", SpanKind.SERVER).decision.is_recording()
        monkeypatch.setattr(tracing._ids, "draw", lambda trace_id=trace_id: trace_id)
        tracing._ids.next.clear()
        assert tracing.samples("name", None) == expected
        assert list(tracing._ids.next) == [trace_id] * expected
