"""Client calls as values: the method, the request message and the interpretation of the response.

This module sends nothing. `Client` and `AsyncClient` have one method for each call and differ in how they wait.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np
from google.protobuf.message import Message

from kanexport.shared.naming import UNNAMED
from kanexport.shared.sections import CertificateInfo
from kanserve.client import encoding, errors, explanation, model_info, results
from kanserve.client.encoding import from_fields, index_of, of_frame, packed, pairs, version_text
from kanserve.client.explanation import Coverage, Explanation
from kanserve.client.results import IndexEntry, InferenceResult, LayerValues, ServedModel, expected_of, result_of
from kanserve.client.statistics import Statistics, Update, compared, statistics_of, updates_of
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.pb import kan_pb2 as kan
from kanserve.types import Description, Estimate, LayerCurves, ParameterValue, Scores, TensorInfo

T = TypeVar("T", covariant=True)

INFERENCE = "/inference.GRPCInferenceService/"
INFER = f"{INFERENCE}ModelInfer"
KAN = "/kanserve.v1.KanService/"
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


def rpc(
    module: Any, method: str, request: Message, result: Callable[[Any], T], *, response: Any = None, **flags: bool
) -> Call[T]:
    """Call of a method of the Open Inference Protocol (`module` of messages: oip) or of KanService (kan). `response`:
    class of its response, if that is not named after the method. `flags`: as in Call."""
    response = response or getattr(module, f"{method}Response")
    return Call(f"{INFERENCE if module is oip else KAN}{method}", request, response.FromString, result, **flags)


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

    def state(response: bytes) -> str:
        number = response[1] if len(response) == 2 else 0
        return HEALTH_STATES[number] if number < len(HEALTH_STATES) else "UNKNOWN"

    return Call(HEALTH, request, bytes, state)


def ready() -> Call[bool]:
    """Readiness of the server for inference."""
    return rpc(oip, "ServerReady", oip.ServerReadyRequest(), lambda message: bool(message.ready))


def index() -> Call[tuple[IndexEntry, ...]]:
    """Every model version in the repository of the server."""

    def entries(message: oip.RepositoryIndexResponse) -> tuple[IndexEntry, ...]:
        return tuple(from_fields(IndexEntry, entry) for entry in message.models)

    return rpc(oip, "RepositoryIndex", oip.RepositoryIndexRequest(), entries)


def model(name: str, version: int | str = "") -> Request[ServedModel]:
    """Inputs, outputs and batch limit of a model. Raises NotFound."""
    request = oip.ModelMetadataRequest(name=name, version=version_text(version))
    config_request = oip.ModelConfigRequest(name=name, version=version_text(version))

    def served(meta: oip.ModelMetadataResponse, response: oip.ModelConfigResponse) -> ServedModel:
        if not (meta.inputs and meta.outputs):
            raise ValueError(f"model '{meta.name}' has {len(meta.inputs)} inputs and {len(meta.outputs)} outputs")
        return from_fields(
            ServedModel,
            meta,
            inputs=model_info.tensors(meta.inputs),
            outputs=model_info.tensors(meta.outputs),
            max_batch_size=response.config.max_batch_size,
            serving=model_info.in_words(response.config),
            names=model_info.names_of(response.config.parameters),
        )

    return Chained(
        rpc(oip, "ModelMetadata", request, lambda meta: meta),
        lambda meta: rpc(oip, "ModelConfig", config_request, partial(served, meta)),
    )


R = TypeVar("R")
P = ParamSpec("P")


def _with_old_keywords(make: Callable[P, R]) -> Callable[P, R]:
    """`infer` that also takes its old keywords, with a warning: `tensors` for `model`, and `model` for `name`."""

    @functools.wraps(make)
    def call(*args: Any, **options: Any) -> R:
        if "tensors" in options or (args and "model" in options):
            text = "infer: the argument `tensors` is now `model`, and `model` is now `name`"
            warnings.warn(text, DeprecationWarning, stacklevel=3)  # the caller of the client's method
            options["name"] = options.pop("model", "")
            args = (options.pop("tensors"), *args) if "tensors" in options else args
        return make(*args, **options)

    return call


@_with_old_keywords
def infer(
    model: ServedModel | TensorInfo | Sequence[TensorInfo] | str,
    rows: Any,
    *,
    name: str = "",
    version: int | str = "",
    outputs: Sequence[str] = (),
    parameters: Mapping[str, ParameterValue] = NONE,
) -> Request[InferenceResult]:
    """Inference request. The result has the outputs as arrays by name.

    model       model name, or a ServedModel (`client.model(name)`) to skip the metadata lookup, or the inputs
    rows        rows of the input, or a mapping by name for several inputs
    name        model name, if `model` has the inputs
    outputs     names of the requested outputs, also "kan.interval" for prediction intervals and "kan.error_bar" for
                error bars; empty: all of the model
    parameters  request parameters, such as {"kan.explain_top_k": 5} for attributions and {"kan.coverage": True}

    With a ServedModel, rows may be a DataFrame, whose columns are put in the model's order.
    """
    if isinstance(model, str):
        build = partial(inference, rows=rows, version=version, outputs=outputs, parameters=parameters)
        return _after_model(model, version, build)
    return inference(model, rows, model=name, version=version, outputs=outputs, parameters=parameters)


def inference(
    tensors: ServedModel | TensorInfo | Sequence[TensorInfo],
    rows: Any,
    *,
    model: str = "",
    version: int | str = "",
    outputs: Sequence[str] = (),
    parameters: Mapping[str, ParameterValue] = NONE,
) -> Call[InferenceResult]:
    """Inference call for known inputs, with the arguments of `infer`. `model`: the model name; it is not needed with a
    ServedModel."""
    names, called, served = UNNAMED, index_of(rows), None
    if isinstance(tensors, ServedModel):
        names, served = tensors.names, tensors
        rows, model = of_frame(rows, tensors.names), model or tensors.name
        tensors = tensors.inputs if isinstance(rows, Mapping) else tensors.inputs[0]
    wanted, text = tuple(outputs), version_text(version)
    arrays = [(tensor, encoding.array_of(tensor, values)) for tensor, values in pairs(tensors, rows)]
    inputs = tuple([(tensor.name, tensor.datatype, array.shape) for tensor, array in arrays])
    head = (
        encoding.head_of(model, text, inputs, wanted, parameters)
        if parameters
        else encoding.plain_head(model, text, inputs, wanted)
    )
    expected = expected_of(text, wanted, arrays[0][1].shape, served)
    return Call(
        INFER,
        encoding.with_contents(head, [array for _, array in arrays]),
        oip.ModelInferResponse.FromString,
        partial(result_of, expected=expected, names=names, index=called),
    )


def _after_model(
    name: str, version: int | str, then: Callable[[ServedModel], Call[InferenceResult]]
) -> Chained[InferenceResult]:
    return Chained(model(name, version), then)


def describe(name: str, version: int | str = "") -> Call[Description]:
    """Description of the KAN of a model. Raises NotFound, and NotSupported for a plain ONNX model."""
    request = kan.DescribeModelRequest(model_name=name, model_version=version_text(version))
    return rpc(kan, "DescribeModel", request, model_info.from_pb)


def certificates(name: str, version: int | str = "") -> Call[tuple[CertificateInfo, ...]]:
    """Certificates of a model: output ranges, directions and Lipschitz bounds over a box of inputs. Empty if the export
    made none. Raises NotFound, and NotSupported for a plain ONNX model."""
    request = kan.GetCertificatesRequest(model_name=name, model_version=version_text(version))
    return rpc(kan, "GetCertificates", request, model_info.certificates)


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
    request = results.edges_request(described, packed(described, rows), **chosen, **options)
    result = partial(results.edges_of, described, request)
    return rpc(kan, "QueryEdges", request, result)


@by_name
def estimate(described: Description, /, row_count: int, **query: Any) -> Call[Estimate]:
    """Estimated cost of `edges` for `row_count` rows, with the same arguments. The server computes no edge."""
    request = results.edges_request(described, {"row_count": row_count}, **query)
    request.estimate_only = True
    return rpc(kan, "QueryEdges", request, lambda message: from_fields(Estimate, message.estimate))


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
    low, high = span or (None, None)
    request = kan.GetCurvesRequest(
        model_name=name,
        model_version=version_text(version),
        **results.layers_by_index_or_name(layers),
        sources=sources,
        destinations=destinations,
        points=points,
        low=low,
        high=high,
        derivative=derivative,
        parts=parts,
        extrema=extrema,
    )
    return rpc(kan, "GetCurves", request, results.curves_of, response=kan.CurveBlock, stream=True)


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
    request = kan.ExplainRequest(
        model_name=described.name,
        model_version=described.version,
        **packed(described, rows),
        outputs=outputs,
        method=method,
        path_top_k=path_top_k,
    )
    if isinstance(reference, str):
        request.reference = reference
    else:
        fields = packed(described, reference)
        request.reference_rows, request.reference_count = fields["rows"], fields["row_count"]
    result = partial(explanation.explanation_of, described, rows, request.row_count)
    return rpc(kan, "Explain", request, result)


@by_name
def scores(described: Description, /, rows: Any = None, *, source: str = "") -> Call[Scores]:
    """Importance of each edge, node and input over `rows` [rows, ...], two or more. Raises NotSupported for a PyTorch
    module export. Instead of rows:

    None        the reference rows of the export
    "live"      the counted traffic of the model
    "baseline"  the counted baseline rows of the export
    "best"      the baseline if there is one, otherwise the reference rows
    """
    fields = {} if rows is None else packed(described, rows)
    request = kan.EdgeScoresRequest(model_name=described.name, model_version=described.version, source=source, **fields)
    return rpc(kan, "EdgeScores", request, partial(results.scores_of, described))


@by_name
def drift(described: Description, /, rows: Any = None) -> Call[Statistics]:
    """Drift of inputs, hidden nodes and outputs over `rows` [rows, ...] from the baseline of the export. None: the
    latest rows of the live traffic. Raises NotSupported if the export has no baseline."""
    fields = {} if rows is None else packed(described, rows)
    request = kan.GetStatisticsRequest(model_name=described.name, model_version=described.version, **fields)
    return rpc(kan, "GetStatistics", request, lambda message: compared(statistics_of(message), described))


def statistics(name: str, version: int | str = "", *, source: str = "total") -> Call[Statistics]:
    """Statistics of inputs, hidden nodes and outputs of a model's traffic: of all analyzed rows ("total"), or of the
    latest ("live"). Raises NotSupported if the server analyzes no traffic."""
    request = kan.GetStatisticsRequest(model_name=name, model_version=version_text(version), source=source)
    return rpc(kan, "GetStatistics", request, statistics_of)


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
    return rpc(kan, "WatchStatistics", request, updates_of, response=kan.StatisticsUpdate, stream=True, again=False)


def reset_statistics(name: str, version: int | str = "") -> Call[float]:
    """Restart the statistics of a model's traffic. The result is the time of the restart in seconds since the epoch.
    Raises the errors of `statistics`."""
    request = kan.ResetStatisticsRequest(model_name=name, model_version=version_text(version))
    return rpc(kan, "ResetStatistics", request, lambda message: float(message.since), again=False, single=True)


@by_name
def coverage(described: Description, /, rows: Any) -> Call[Coverage]:
    """Grid coverage of the nodes of `rows` [rows, ...] in each layer: see Coverage."""
    rows = of_frame(rows, described.names)
    tensors = described.inputs if isinstance(rows, Mapping) else described.input
    target = {"model": described.name, "version": described.version}
    call = inference(tensors, rows, **target, parameters={explanation.PARAMETER: True})
    (_, first), *_ = pairs(tensors, rows)
    row_count = np.shape(first)[:1]

    def result(message: oip.ModelInferResponse) -> Coverage:
        return explanation.coverage_of(call.result(message), *row_count)

    return Call(call.path, call.request, call.parse, result)
