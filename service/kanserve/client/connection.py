"""A small synchronous client: one method per call, plain values in and out.

Every call has a deadline. UNAVAILABLE is retried, nothing else is. What gRPC
raises is translated once, into a ClientError (`kanserve.client.errors`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

from kanserve.client import channel, coverage, curves, errors, explain, scores, statistics
from kanserve.client import parameters as params
from kanserve.client.answers import Answer, IndexEntry, LayerValues, ServedModel
from kanserve.client.coverage import Coverage
from kanserve.client.curves import LayerCurves
from kanserve.client.description import Description, from_pb
from kanserve.client.errors import ClientError
from kanserve.client.explain import Explanation
from kanserve.client.rows import of_frame, packed, pairs
from kanserve.client.scores import Scores
from kanserve.client.serving import in_words, names_of
from kanserve.client.statistics import Statistics
from kanserve.nouns import DTYPES, TensorInfo, Word
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.pb import kan_pb2 as kan

M = TypeVar("M", bound=Message)

NONE: Mapping[str, Word] = MappingProxyType({})
INFERENCE = "/inference.GRPCInferenceService/"
KAN = "/kanserve.v1.KanService/"
HEALTH = "/grpc.health.v1.Health/Check"
HEALTH_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
RETRIES = 3
FIRST_BACK_OFF = 0.1  # seconds; doubles, with jitter


class Client:
    """A connection to one server. Close it, or use it in a `with` statement."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        server_name: str = "",
        token: str = "",
        token_in_clear: bool = False,
    ) -> None:
        """`url` is host:port, or grpcs://host:port for TLS, which any of the other arguments ask for too.

        `timeout` seconds bound every single call, retries included. PEM files: `ca` has whom to
        trust (default: the usual authorities), `cert` and `key` show who is calling. `server_name`
        is what the server's certificate says, where that is not the host. `token` goes with every call, over TLS or
        to this machine alone unless `token_in_clear`. Raises ValueError.
        """
        self.url = url
        self.timeout = timeout
        tls = channel.Tls.of(ca, cert, key, server_name)
        self._channel = channel.connect(url, tls)
        self._secure = channel.is_secure(url, tls)
        self._metadata = channel.carried(token, url, secure=self._secure, in_clear=token_in_clear)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()

    def health(self, service: str = "") -> str:
        """State of the standard health service, such as SERVING."""
        name = service.encode()
        if len(name) > 127:
            raise ValueError("a health service name has at most 127 bytes")
        # NOTE: two fields, encoded by hand, so that a client needs no grpcio-health-checking.
        request = b"\x0a" + bytes([len(name)]) + name if name else b""
        answer: bytes = self._call(HEALTH, request, bytes)
        state = answer[1] if len(answer) == 2 else 0
        return HEALTH_STATES[state] if state < len(HEALTH_STATES) else "UNKNOWN"

    def ready(self) -> bool:
        """Whether the server says it is ready for inference."""
        return self._unary("ServerReady", oip.ServerReadyRequest(), oip.ServerReadyResponse).ready

    def index(self) -> tuple[IndexEntry, ...]:
        """Every model version the server knows of."""
        answer = self._unary("RepositoryIndex", oip.RepositoryIndexRequest(), oip.RepositoryIndexResponse)
        return tuple(IndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models)

    def model(self, name: str, version: str = "") -> ServedModel:
        """Inputs, outputs and batch limit of a model. Raises NotFound."""
        meta = self._unary(
            "ModelMetadata", oip.ModelMetadataRequest(name=name, version=version), oip.ModelMetadataResponse
        )
        config = self._unary("ModelConfig", oip.ModelConfigRequest(name=name, version=version), oip.ModelConfigResponse)
        return ServedModel(
            name=meta.name,
            versions=tuple(meta.versions),
            platform=meta.platform,
            inputs=tuple(TensorInfo(t.name, t.datatype, tuple(t.shape)) for t in meta.inputs),
            outputs=tuple(TensorInfo(t.name, t.datatype, tuple(t.shape)) for t in meta.outputs),
            max_batch_size=config.config.max_batch_size,
            serving=in_words(config.config),
            names=names_of(config.config.parameters),
        )

    def describe(self, name: str, version: str = "") -> Description:
        """The KAN behind a model. Raises NotFound, and NotSupported for a plain ONNX model."""
        request = kan.DescribeModelRequest(model_name=name, model_version=version)
        answer: kan.DescribeModelResponse = self._call(KAN + "DescribeModel", request, kan.DescribeModelResponse)
        return from_pb(answer)

    def infer(
        self,
        tensors: ServedModel | TensorInfo | Sequence[TensorInfo],
        rows: Any,
        *,
        model: str = "",
        version: str = "",
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Word] = NONE,
    ) -> Answer:
        """One request: `rows` into an input, or into several, then a mapping by their names; the outputs
        named (none: all) as arrays by name. With a ServedModel (`client.model(name)`) in the place of inputs, `model`
        is its name, and rows may be a DataFrame, whose columns are put in the model's order. `parameters` of the
        request: {"kan.explain_top_k": 5} has the server tell why, {"kan.coverage": True} where the rows are."""
        if isinstance(tensors, ServedModel):
            rows, model = of_frame(rows, tensors.names), model or tensors.name
            tensors = tensors.inputs if isinstance(rows, Mapping) else tensors.inputs[0]
        request = oip.ModelInferRequest(model_name=model, model_version=version)
        for tensor, array in pairs(tensors, rows):
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
            request.raw_input_contents.append(np.ascontiguousarray(array, DTYPES[tensor.datatype]).tobytes())
        for name in outputs:
            request.outputs.add(name=name)
        params.say(request.parameters, parameters)
        answer = self._unary("ModelInfer", request, oip.ModelInferResponse)
        arrays = {}
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
            if output.datatype not in DTYPES:
                raise errors.of(
                    "UNIMPLEMENTED", f"output {output.name} is {output.datatype}, which this client cannot read"
                )
            arrays[output.name] = np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
        return Answer(answer.model_version, arrays, params.said(answer.parameters))

    def edges(
        self,
        described: Description,
        rows: Any,
        *,
        layers: Sequence[int | str] = (),
        sources: tuple[int, ...] = (),
        destinations: tuple[int, ...] = (),
        top_k: int = 0,
    ) -> tuple[LayerValues, ...]:
        """One edge query: values of the selected edges for `rows` [rows, ...], shaped as the
        model's input; of a model with several a mapping by their names. Layers by index or by
        name; the answer has the indices first."""
        request = kan.QueryEdgesRequest(
            model_name=described.name,
            model_version=described.version,
            **packed(described, rows),
            layers=[layer for layer in layers if isinstance(layer, int)],
            layer_names=[layer for layer in layers if isinstance(layer, str)],
            sources=sources,
            destinations=destinations,
            top_k=top_k,
        )
        answer: kan.QueryEdgesResponse = self._call(KAN + "QueryEdges", request, kan.QueryEdgesResponse)
        return tuple(
            LayerValues(
                layer=layer.layer,
                sources=np.array(layer.sources, np.int64),
                destinations=np.array(layer.destinations, np.int64),
                values=np.frombuffer(layer.values, "<f4").reshape(tuple(layer.shape)),
            )
            for layer in answer.layers
        )

    def curves(
        self,
        name: str,
        version: str = "",
        *,
        layers: Sequence[int | str] = (),
        sources: Sequence[int] = (),
        destinations: Sequence[int] = (),
        points: int = 0,
        span: tuple[float, float] | None = None,
        derivative: bool = False,
        parts: bool = False,
    ) -> tuple[LayerCurves, ...]:
        """Edge functions on a grid of so many `points` (0: 101), from the first to the last of `span`; without it
        over each source's own domain. Raises NotFound, NotSupported for a layer whose edges are no curves, TooLarge."""
        request = curves.request(
            name,
            version,
            layers=layers,
            sources=sources,
            destinations=destinations,
            points=points,
            span=span,
            derivative=derivative,
            parts=parts,
        )
        found: tuple[LayerCurves, ...] = self._call(KAN + "GetCurves", request, kan.CurveBlock, curves.joined)
        return found

    def explain(
        self, described: Description, rows: Any, *, reference: Any = "", outputs: Sequence[int] = ()
    ) -> Explanation:
        """What the inputs of `rows` [rows, ...] have to do with the answers: see Explanation. `reference`: "mean",
        "zeros", "grid_center", or rows of the caller's; "": what the server takes. `outputs`: which are explained
        (all). Raises NotSupported where the model cannot be taken apart, TooLarge."""
        request = explain.request(described, rows, reference=reference, outputs=outputs)
        return explain.of(self._call(KAN + "Explain", request, kan.ExplainResponse))

    def coverage(self, described: Description, rows: Any) -> Coverage:
        """Where the nodes of `rows` [rows, ...] are on the grids of each layer: see Coverage."""
        rows = of_frame(rows, described.names)
        tensors = described.inputs if isinstance(rows, Mapping) else described.input
        asked = {"model": described.name, "version": described.version}
        return coverage.of(self.infer(tensors, rows, **asked, parameters={coverage.PARAMETER: True}))

    def scores(self, described: Description, rows: Any = None) -> Scores:
        """What each edge, node and input matters over `rows` [rows, ...], two or more; None: over the reference rows
        of the export. Raises NotSupported for a module with KAN layers in it."""
        request = scores.request(described, rows)
        return scores.of(self._call(KAN + "EdgeScores", request, kan.EdgeScoresResponse))

    def drift(self, described: Description, rows: Any = None) -> Statistics:
        """What the inputs, the nodes inside and the answers are over `rows` [rows, ...], beside what they were on the
        rows that the export was given; None: over the latest that the model was asked. Raises NotSupported where the
        export was given none."""
        request = statistics.request(described, rows)
        return statistics.of(self._call(KAN + "GetStatistics", request, kan.GetStatisticsResponse))

    def _unary(self, method: str, request: Message, answer: type[M]) -> M:
        message: M = self._call(INFERENCE + method, request, answer)
        return message

    def _call(
        self, path: str, request: Message | bytes, answer: Any, joined: Callable[[Iterable[Any]], Any] | None = None
    ) -> Any:
        """Send one message; retry while the server is unavailable and the deadline allows. `joined`: what makes one
        of the messages of a stream."""
        parse: Callable[[bytes], Any] = bytes if answer is bytes else answer.FromString
        shape = self._channel.unary_unary if joined is None else self._channel.unary_stream
        send = shape(path, request_serializer=_bytes, response_deserializer=parse)
        deadline = time.monotonic() + self.timeout
        for attempt in range(RETRIES + 1):
            try:
                got = send(request, timeout=max(0.001, deadline - time.monotonic()), metadata=self._metadata)
                return got if joined is None else joined(got)
            except grpc.RpcError as error:
                pause = FIRST_BACK_OFF * 2**attempt * random.uniform(0.5, 1.0)
                late = time.monotonic() + pause > deadline
                if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == RETRIES or late:
                    raise self._translate(path, error) from error
                time.sleep(pause)
        raise AssertionError("the loop returns or raises")

    def _translate(self, path: str, error: grpc.RpcError) -> ClientError:
        """What gRPC raised, in our words."""
        code, details = error.code().name, error.details() or "no explanation was given"
        if code == "UNAVAILABLE" and (why := channel.not_connected(details, secure=self._secure)):
            return errors.of(code, f"no connection to the server at {self.url}: {why}", unreachable=True)
        unreachable = code == "UNAVAILABLE" and "connect" in details.lower()
        if unreachable:
            return errors.of(code, f"no server answers at {self.url}", unreachable=True)
        words = {
            "UNAVAILABLE": f"the server at {self.url} is not available: {details}",
            "DEADLINE_EXCEEDED": f"no answer from {self.url} within {self.timeout:g} s",
            "UNIMPLEMENTED": f"the server at {self.url} does not offer {path.rpartition('/')[2]}: {details}",
        }
        plain = details if code in errors.BY_CODE else f"the server at {self.url} failed ({code}): {details}"
        return errors.of(code, words.get(code, plain))


def _bytes(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
