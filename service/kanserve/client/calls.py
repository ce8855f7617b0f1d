"""Client calls as values: the method, the request message and the interpretation of the response.

This module sends nothing. `Client` and `AsyncClient` have one method for each call and differ in how they wait.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np
from google.protobuf.message import Message

from kanexport.shared.naming import UNNAMED
from kanexport.shared.sections import CertificateInfo
from kanserve.client import encoding as params
from kanserve.client import errors
from kanserve.client import explanation as coverage_
from kanserve.client import explanation as explain_
from kanserve.client import results as curves_
from kanserve.client import results as edges_
from kanserve.client import results as scores_
from kanserve.client import statistics as statistics_
from kanserve.client.encoding import index_of, of_frame, packed, pairs, version_text
from kanserve.client.explanation import Coverage, Explanation
from kanserve.client.model_info import certificates as certificates_of
from kanserve.client.model_info import from_pb, in_words, names_of
from kanserve.client.results import Answer, IndexEntry, LayerValues, ServedModel, answer_of, expected_of
from kanserve.client.statistics import Statistics, Update
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.pb import kan_pb2 as kan
from kanserve.types import Description, Estimate, LayerCurves, ParameterValue, Scores, TensorInfo

T = TypeVar("T", covariant=True)

INFERENCE = "/inference.GRPCInferenceService/"
INFER = f"{INFERENCE}ModelInfer"
HEALTH = "/grpc.health.v1.Health/Check"
NONE: Mapping[str, ParameterValue] = MappingProxyType({})
HEALTH_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")


class Call(NamedTuple, Generic[T]):
    """Description of one call.

    path     the gRPC method
    request  the request message
    parse    decoder of a response message
    result   converter of the response message, or of the list of messages of a stream
    stream   True if the response is a stream
    again    True if a retry is harmless
    single   True if it changes the state of the server that gets it
    """

    path: str
    request: Message | bytes
    parse: Callable[[bytes], Any]
    result: Callable[[Any], T]
    stream: bool = False
    again: bool = True
    single: bool = False

    @property
    def data(self) -> bytes:
        """Serialized request message."""
        return self.request if isinstance(self.request, bytes) else self.request.SerializeToString()


@dataclass(frozen=True, slots=True)
class Chained(Generic[T]):
    """Call that depends on the result of another one. `then` makes it from the result of `first`."""

    first: Call[Any] | Chained[Any]
    then: Callable[[Any], Call[T] | Chained[T]]


Request = Call[T] | Chained[T]


def health(service: str = "") -> Call[str]:
    """State of the standard health service, such as SERVING."""
    name = service.encode()
    if len(name) > 127:
        raise errors.ArgumentError(
            f"the health service name has {len(name)} bytes, expected at most 127",
            code="argument-invalid",
            hint="pass the name of a gRPC service or a model",
        )
    # NOTE: two fields, encoded by hand, so that a client needs no grpcio-health-checking.
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    return Call(HEALTH, request, bytes, _health)


def ready() -> Call[bool]:
    """Readiness of the server for inference."""
    return Call(
        f"{INFERENCE}ServerReady",
        oip.ServerReadyRequest(),
        oip.ServerReadyResponse.FromString,
        lambda answer: bool(answer.ready),
    )


def index() -> Call[tuple[IndexEntry, ...]]:
    """Every model version in the repository of the server."""
    return Call(
        f"{INFERENCE}RepositoryIndex",
        oip.RepositoryIndexRequest(),
        oip.RepositoryIndexResponse.FromString,
        lambda answer: tuple(IndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models),
    )


def model(name: str, version: int | str = "") -> Request[ServedModel]:
    """Inputs, outputs and batch limit of a model. Raises NotFound."""
    meta = oip.ModelMetadataRequest(name=name, version=version_text(version))
    config = oip.ModelConfigRequest(name=name, version=version_text(version))
    return Chained(
        Call(f"{INFERENCE}ModelMetadata", meta, oip.ModelMetadataResponse.FromString, _as_it_is),
        lambda meta: Call(
            f"{INFERENCE}ModelConfig", config, oip.ModelConfigResponse.FromString, partial(_served, meta)
        ),
    )


def infer(
    tensors: ServedModel | TensorInfo | Sequence[TensorInfo] | str,
    rows: Any,
    *,
    model: str = "",
    version: int | str = "",
    outputs: Sequence[str] = (),
    parameters: Mapping[str, ParameterValue] = NONE,
) -> Request[Answer]:
    """Inference request. The result has the outputs as arrays by name.

    tensors     a ServedModel (`client.model(name)`), a model's name, which is looked up each time, or the inputs
    rows        rows of the input, or a mapping by name for several inputs
    model       the model's name; with a ServedModel or a name in `tensors`, it is not needed
    outputs     names of the requested outputs, also "kan.interval" for prediction intervals and "kan.error_bar" for
                error bars; empty: all of the model
    parameters  request parameters, such as {"kan.explain_top_k": 5} for attributions and {"kan.coverage": True}

    With a ServedModel, rows may be a DataFrame, whose columns are put in the model's order.
    """
    if isinstance(tensors, str):
        build = partial(inference, rows=rows, version=version, outputs=outputs, parameters=parameters)
        return _after_model(tensors, version, build)
    return inference(tensors, rows, model=model, version=version, outputs=outputs, parameters=parameters)


def inference(
    tensors: ServedModel | TensorInfo | Sequence[TensorInfo],
    rows: Any,
    *,
    model: str = "",
    version: int | str = "",
    outputs: Sequence[str] = (),
    parameters: Mapping[str, ParameterValue] = NONE,
) -> Call[Answer]:
    """Inference call for known inputs, with the arguments of `infer`."""
    names, called, served = UNNAMED, index_of(rows), None
    if isinstance(tensors, ServedModel):
        names, served = tensors.names, tensors
        rows, model = of_frame(rows, tensors.names), model or tensors.name
        tensors = tensors.inputs if isinstance(rows, Mapping) else tensors.inputs[0]
    wanted, text = tuple(outputs), version_text(version)
    arrays = [(tensor, params.array_of(tensor, values)) for tensor, values in pairs(tensors, rows)]
    inputs = tuple([(tensor.name, tensor.datatype, array.shape) for tensor, array in arrays])
    head = (
        params.head_of(model, text, inputs, wanted, parameters)
        if parameters
        else params.plain_head(model, text, inputs, wanted)
    )
    expected = expected_of(text, wanted, arrays[0][1].shape, served)
    return Call(
        INFER,
        params.with_contents(head, [array for _, array in arrays]),
        oip.ModelInferResponse.FromString,
        partial(answer_of, expected=expected, names=names, index=called),
    )


def _after_model(name: str, version: int | str, then: Callable[[ServedModel], Call[Answer]]) -> Chained[Answer]:
    return Chained(model(name, version), then)


def _served(meta: oip.ModelMetadataResponse, config: oip.ModelConfigResponse) -> ServedModel:
    """The model. Raises ValueError for metadata without inputs or outputs."""
    if not (meta.inputs and meta.outputs):
        raise ValueError(f"model '{meta.name}' has {len(meta.inputs)} inputs and {len(meta.outputs)} outputs")
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


def _as_it_is(message: Any) -> Any:
    return message


def _health(answer: bytes) -> str:
    state = answer[1] if len(answer) == 2 else 0
    return HEALTH_STATES[state] if state < len(HEALTH_STATES) else "UNKNOWN"


R = TypeVar("R")
P = ParamSpec("P")
KAN = "/kanserve.v1.KanService/"


def describe(name: str, version: int | str = "") -> Call[Description]:
    """Description of the KAN of a model. Raises NotFound, and NotSupported for a plain ONNX model."""
    request = kan.DescribeModelRequest(model_name=name, model_version=version_text(version))
    return Call(f"{KAN}DescribeModel", request, kan.DescribeModelResponse.FromString, from_pb)


def certificates(name: str, version: int | str = "") -> Call[tuple[CertificateInfo, ...]]:
    """Certificates of a model: output ranges, directions and Lipschitz bounds over a box of inputs. Empty if the export
    made none. Raises NotFound, and NotSupported for a plain ONNX model."""
    request = kan.GetCertificatesRequest(model_name=name, model_version=version_text(version))
    return Call(f"{KAN}GetCertificates", request, kan.GetCertificatesResponse.FromString, certificates_of)


def by_name(
    make: Callable[Concatenate[Description, P], Call[R]],
) -> Callable[Concatenate[Description | str, P], Request[R]]:
    """Decorator: the call also takes a model's name in place of its description, which it then requests each time."""

    def make_request(described: Description | str, /, *args: P.args, **kwargs: P.kwargs) -> Request[R]:
        if isinstance(described, str):
            return Chained(describe(described), lambda description: make(description, *args, **kwargs))
        return make(described, *args, **kwargs)

    functools.update_wrapper(make_request, make)
    signature = inspect.signature(make)
    first, *others = signature.parameters.values()
    either = first.replace(annotation=f"{first.annotation} | str")
    vars(make_request).update(__signature__=signature.replace(parameters=[either, *others]))
    return make_request


@by_name
def edges(
    described: Description,
    /,
    rows: Any,
    *,
    layers: Sequence[int | str] = (),
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    path: tuple[int, int] | None = None,
    **options: Any,
) -> Call[tuple[LayerValues, ...]]:
    """Edge query: values of the selected edges for `rows` [rows, ...].

    rows    shaped as the model's input; for several inputs a mapping by name
    layers  indices or names of layers; the response has the indices first
    path    an input and an output: only the edges on the paths between them
    options  the fields of `kanserve.types.EdgeOptions`, such as top_k, per_row, residual, nodes and reductions
    """
    chosen: dict[str, Any] = {"layers": layers, "sources": sources, "destinations": destinations, "path": path}
    request = edges_.edges_request(described, packed(described, rows), **chosen, **options)
    return Call(
        f"{KAN}QueryEdges",
        request,
        kan.QueryEdgesResponse.FromString,
        lambda answer: edges_.edges_of(described, request, answer),
    )


@by_name
def estimate(described: Description, /, row_count: int, **query: Any) -> Call[Estimate]:
    """Estimated cost of `edges` for `row_count` rows, with the same arguments. The server computes no edge."""
    request = edges_.edges_request(described, {"row_count": row_count}, **query)
    request.estimate_only = True
    return Call(f"{KAN}QueryEdges", request, kan.QueryEdgesResponse.FromString, edges_.estimate)


def curves(
    name: str,
    version: int | str = "",
    *,
    layers: Sequence[int | str] = (),
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    points: int = 0,
    span: tuple[float, float] | None = None,
    derivative: bool = False,
    parts: bool = False,
    extrema: bool = False,
) -> Call[tuple[LayerCurves, ...]]:
    """Edge functions at `points` points (0: 101) from the first to the last value of `span`; without `span`, over the
    domain of each source. Raises NotFound, NotSupported for a layer whose edges have no curves, TooLarge."""
    request = curves_.curves_request(
        name,
        version_text(version),
        layers=layers,
        sources=sources,
        destinations=destinations,
        points=points,
        span=span,
        derivative=derivative,
        parts=parts,
        extrema=extrema,
    )
    return Call(f"{KAN}GetCurves", request, kan.CurveBlock.FromString, curves_.curves_of, stream=True)


@by_name
def explain(
    described: Description,
    /,
    rows: Any,
    *,
    reference: Any = "",
    outputs: Sequence[int] = (),
    method: str = "",
    path_top_k: int = 0,
) -> Call[Explanation]:
    """Feature attributions of the predictions for `rows` [rows, ...]: see Explanation. Raises NotSupported for a
    model that cannot be decomposed, and TooLarge.

    reference   "mean", "zeros", "grid_center", or rows of the caller; "": the server's default
    outputs     the explained outputs; empty: all
    method      "rescale", the default, or "gradient_x_input"
    path_top_k  number of edges of each layer with the largest share of the difference, in `Explanation.path`
    """
    request = explain_.request(
        described, rows, reference=reference, outputs=outputs, method=method, path_top_k=path_top_k
    )
    return Call(
        f"{KAN}Explain",
        request,
        kan.ExplainResponse.FromString,
        lambda answer: explain_.from_pb(answer, described, rows, request.row_count),
    )


@by_name
def scores(described: Description, /, rows: Any = None, *, source: str = "") -> Call[Scores]:
    """Importance of each edge, node and input over `rows` [rows, ...], two or more. Raises NotSupported for a PyTorch
    module export. Instead of rows:

    None        the reference rows of the export
    "live"      the counted traffic of the model
    "baseline"  the counted baseline rows of the export
    "best"      the baseline if there is one, otherwise the reference rows
    """
    request = scores_.scores_request(described, rows, source)
    return Call(f"{KAN}EdgeScores", request, kan.EdgeScoresResponse.FromString, partial(scores_.scores_of, described))


@by_name
def drift(described: Description, /, rows: Any = None) -> Call[Statistics]:
    """Drift of inputs, hidden nodes and outputs over `rows` [rows, ...] from the baseline of the export. None: the
    latest rows of the live traffic. Raises NotSupported if the export has no baseline."""
    request = statistics_.request(described, rows)
    return Call(
        f"{KAN}GetStatistics",
        request,
        kan.GetStatisticsResponse.FromString,
        lambda answer: statistics_.compared(statistics_.from_pb(answer), described),
    )


def statistics(name: str, version: int | str = "", *, source: str = "total") -> Call[Statistics]:
    """Statistics of inputs, hidden nodes and outputs of a model's traffic: of all analyzed rows ("total"), or of the
    latest ("live"). Raises NotSupported if the server analyzes no traffic."""
    request = kan.GetStatisticsRequest(model_name=name, model_version=version_text(version), source=source)
    return Call(f"{KAN}GetStatistics", request, kan.GetStatisticsResponse.FromString, statistics_.from_pb)


def watch_statistics(
    name: str, version: int | str = "", *, source: str = "total", interval: float = 0.0, updates: int = 0
) -> Call[Iterator[Update]]:
    """Statistics as `statistics` returns them, now and after every `interval` seconds (0: 2). The watch has no
    deadline; leave the loop to end it. Raises the errors of `statistics`.

    updates  largest number of updates; 0: until the version is replaced or the server ends

    The last update says why the watch ended.
    """
    request = kan.WatchStatisticsRequest(
        model_name=name, model_version=version_text(version), source=source, interval=interval, updates=updates
    )
    return Call(
        f"{KAN}WatchStatistics", request, kan.StatisticsUpdate.FromString, statistics_.updates, stream=True, again=False
    )


def reset_statistics(name: str, version: int | str = "") -> Call[float]:
    """Restart the statistics of a model's traffic. The result is the time of the restart in seconds since the epoch.
    Raises the errors of `statistics`."""
    request = kan.ResetStatisticsRequest(model_name=name, model_version=version_text(version))
    return Call(
        f"{KAN}ResetStatistics",
        request,
        kan.ResetStatisticsResponse.FromString,
        lambda answer: float(answer.since),
        again=False,
        single=True,
    )


@by_name
def coverage(described: Description, /, rows: Any) -> Call[Coverage]:
    """Grid coverage of the nodes of `rows` [rows, ...] in each layer: see Coverage."""
    rows = of_frame(rows, described.names)
    tensors = described.inputs if isinstance(rows, Mapping) else described.input
    target = {"model": described.name, "version": described.version}
    call = inference(tensors, rows, **target, parameters={coverage_.PARAMETER: True})
    (_, first), *_ = pairs(tensors, rows)
    count = np.shape(first)[:1]
    return Call(call.path, call.request, call.parse, lambda answer: coverage_.coverage_of(call.result(answer), *count))
