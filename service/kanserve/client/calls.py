"""Every call there is, as a value: what is sent where, and what its answer means.

Nothing is sent here. `Client` and `AsyncClient` have a method for each, and differ in how they wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
from google.protobuf.message import Message

from kanexport.shared.naming import UNNAMED, Names
from kanserve.client import curves as curves_
from kanserve.client import edges as edges_
from kanserve.client import errors
from kanserve.client import explain as explain_
from kanserve.client import scores as scores_
from kanserve.client import statistics as statistics_
from kanserve.client.answers import Answer, IndexEntry, LayerValues, ServedModel
from kanserve.client.curves import LayerCurves
from kanserve.client.description import Description, from_pb
from kanserve.client.explain import Explanation
from kanserve.client.frames import index_of
from kanserve.client.rows import of_frame, packed, pairs
from kanserve.client.scores import Scores
from kanserve.client.serving import in_words, names_of
from kanserve.client.statistics import Statistics, Update
from kanserve.nouns import DTYPES, Estimate, TensorInfo
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.pb import kan_pb2 as kan

T = TypeVar("T", covariant=True)

INFERENCE = "/inference.GRPCInferenceService/"
KAN = "/kanserve.v1.KanService/"
HEALTH = "/grpc.health.v1.Health/Check"
HEALTH_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """`request` goes to the method at `path`, whose messages `parse` reads; `result` makes the answer of the message,
    of a `stream` from the list of them. `again`: it may be sent twice without harm."""

    path: str
    request: Message | bytes
    parse: Callable[[bytes], Any]
    result: Callable[[Any], T]
    stream: bool = False
    again: bool = True

    @property
    def data(self) -> bytes:
        """What is sent."""
        return self.request if isinstance(self.request, bytes) else self.request.SerializeToString()


def health(service: str = "") -> Call[str]:
    """State of the standard health service, such as SERVING."""
    name = service.encode()
    if len(name) > 127:
        raise ValueError("a health service name has at most 127 bytes")
    # NOTE: two fields, encoded by hand, so that a client needs no grpcio-health-checking.
    request = b"\x0a" + bytes([len(name)]) + name if name else b""
    return Call(HEALTH, request, bytes, _health)


def ready() -> Call[bool]:
    """Whether the server says it is ready for inference."""
    return Call(
        f"{INFERENCE}ServerReady",
        oip.ServerReadyRequest(),
        oip.ServerReadyResponse.FromString,
        lambda answer: bool(answer.ready),
    )


def index() -> Call[tuple[IndexEntry, ...]]:
    """Every model version the server knows of."""
    return Call(
        f"{INFERENCE}RepositoryIndex",
        oip.RepositoryIndexRequest(),
        oip.RepositoryIndexResponse.FromString,
        lambda answer: tuple(IndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models),
    )


def metadata(name: str, version: str) -> Call[oip.ModelMetadataResponse]:
    """A model's inputs and outputs."""
    request = oip.ModelMetadataRequest(name=name, version=version)
    return Call(f"{INFERENCE}ModelMetadata", request, oip.ModelMetadataResponse.FromString, _as_it_is)


def config(name: str, version: str) -> Call[oip.ModelConfigResponse]:
    """How the server runs a model."""
    request = oip.ModelConfigRequest(name=name, version=version)
    return Call(f"{INFERENCE}ModelConfig", request, oip.ModelConfigResponse.FromString, _as_it_is)


def served(meta: oip.ModelMetadataResponse, config: oip.ModelConfigResponse) -> ServedModel:
    """Both together."""
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


def describe(name: str, version: str = "") -> Call[Description]:
    """The KAN behind a model. Raises NotFound, and NotSupported for a plain ONNX model."""
    request = kan.DescribeModelRequest(model_name=name, model_version=version)
    return Call(f"{KAN}DescribeModel", request, kan.DescribeModelResponse.FromString, from_pb)


def infer(
    tensors: ServedModel | TensorInfo | Sequence[TensorInfo],
    rows: Any,
    *,
    model: str = "",
    version: str = "",
    outputs: Sequence[str] = (),
) -> Call[Answer]:
    """One request: `rows` into an input, or into several, then a mapping by their names; the outputs named (none: all)
    as arrays by name. With a ServedModel (`client.model(name)`) in the place of inputs, `model` is its name, and rows
    may be a DataFrame, whose columns are put in the model's order."""
    names, called = UNNAMED, index_of(rows)
    if isinstance(tensors, ServedModel):
        names = tensors.names
        rows, model = of_frame(rows, tensors.names), model or tensors.name
        tensors = tensors.inputs if isinstance(rows, Mapping) else tensors.inputs[0]
    request = oip.ModelInferRequest(model_name=model, model_version=version)
    for tensor, given in pairs(tensors, rows):
        array = np.asarray(given, DTYPES[tensor.datatype])
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    for name in outputs:
        request.outputs.add(name=name)
    return Call(
        f"{INFERENCE}ModelInfer",
        request,
        oip.ModelInferResponse.FromString,
        partial(_answer, names=names, index=called),
    )


def edges(
    described: Description,
    rows: Any,
    *,
    layers: Sequence[int | str] = (),
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    path: tuple[int, int] | None = None,
    **wanted: Any,
) -> Call[tuple[LayerValues, ...]]:
    """One edge query: values of the selected edges for `rows` [rows, ...], shaped as the model's input; of a model with
    several a mapping by their names. Layers by index or by name; the answer has the indices first. `path`: only edges
    on the ways from an input to an output. `wanted`: what else of them, the fields of `kanserve.nouns.Wanted`: top_k,
    each_row, min_magnitude, rest, nodes, reductions, quantiles, bins."""
    chosen: dict[str, Any] = {"layers": layers, "sources": sources, "destinations": destinations, "path": path}
    request = edges_.request(described, packed(described, rows), **chosen, **wanted)
    return Call(
        f"{KAN}QueryEdges", request, kan.QueryEdgesResponse.FromString, lambda answer: edges_.of(described, answer)
    )


def estimate(described: Description, row_count: int, **asked: Any) -> Call[Estimate]:
    """What `edges` of so many rows would take, asked in the same way; nothing is computed."""
    request = edges_.request(described, {"row_count": row_count}, **asked)
    request.estimate_only = True
    return Call(f"{KAN}QueryEdges", request, kan.QueryEdgesResponse.FromString, edges_.estimate)


def curves(
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
) -> Call[tuple[LayerCurves, ...]]:
    """Edge functions on a grid of so many `points` (0: 101), from the first to the last of `span`; without it over each
    source's own domain. Raises NotFound, NotSupported for a layer whose edges are no curves, TooLarge."""
    request = curves_.request(
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
    return Call(f"{KAN}GetCurves", request, kan.CurveBlock.FromString, curves_.joined, stream=True)


def explain(
    described: Description, rows: Any, *, reference: Any = "", outputs: Sequence[int] = (), method: str = ""
) -> Call[Explanation]:
    """What the inputs of `rows` [rows, ...] have to do with the answers: see Explanation. `reference`: "mean", "zeros",
    "grid_center", or rows of the caller's; "": what the server takes. `outputs`: which are explained (all).
    `method`: "rescale", the usual one, or "gradient_x_input". Raises
    NotSupported where the model cannot be taken apart, TooLarge."""
    request = explain_.request(described, rows, reference=reference, outputs=outputs, method=method)
    return Call(
        f"{KAN}Explain",
        request,
        kan.ExplainResponse.FromString,
        lambda answer: explain_.of(answer, described, rows),
    )


def scores(described: Description, rows: Any = None, *, over: str = "") -> Call[Scores]:
    """What each edge, node and input matters over `rows` [rows, ...], two or more; None: over the reference rows of the
    export, or with "live" over the model's traffic, as statistics have counted it. Raises NotSupported for a module
    with KAN layers in it."""
    request = scores_.request(described, rows, over)
    return Call(f"{KAN}EdgeScores", request, kan.EdgeScoresResponse.FromString, scores_.of)


def drift(described: Description, rows: Any = None) -> Call[Statistics]:
    """What the inputs, the nodes inside and the answers are over `rows` [rows, ...], beside what they were on the rows
    that the export was given; None: over the latest that the model was asked. Raises NotSupported where the export was
    given none."""
    request = statistics_.request(described, rows)
    return Call(
        f"{KAN}GetStatistics",
        request,
        kan.GetStatisticsResponse.FromString,
        lambda answer: statistics_.compared(statistics_.of(answer), described.name),
    )


def statistics(name: str, version: str = "", *, over: str = "total") -> Call[Statistics]:
    """What the inputs, the nodes inside and the answers of a model's traffic are: of all rows that were looked into
    ("total"), or of the latest ("live"). Raises NotSupported where nothing is looked into."""
    request = kan.GetStatisticsRequest(model_name=name, model_version=version, over=over)
    return Call(f"{KAN}GetStatistics", request, kan.GetStatisticsResponse.FromString, statistics_.of)


def watch_statistics(
    name: str, version: str = "", *, over: str = "total", interval: float = 0.0, updates: int = 0
) -> Call[Iterator[Update]]:
    """The same now and after every `interval` seconds (0: 2), so many `updates` at most (0: until the version is
    replaced, or the server ends): the last one says why. No deadline; leave the loop to end it. Raises as
    `statistics`."""
    request = kan.WatchStatisticsRequest(
        model_name=name, model_version=version, over=over, interval=interval, updates=updates
    )
    return Call(
        f"{KAN}WatchStatistics", request, kan.StatisticsUpdate.FromString, statistics_.updates, stream=True, again=False
    )


def reset_statistics(name: str, version: str = "") -> Call[float]:
    """Count anew what a model is asked; since when, in seconds since the epoch. Raises as `statistics`."""
    request = kan.ResetStatisticsRequest(model_name=name, model_version=version)
    return Call(
        f"{KAN}ResetStatistics",
        request,
        kan.ResetStatisticsResponse.FromString,
        lambda answer: float(answer.since),
        again=False,
    )


def _as_it_is(message: Any) -> Any:
    return message


def _health(answer: bytes) -> str:
    state = answer[1] if len(answer) == 2 else 0
    return HEALTH_STATES[state] if state < len(HEALTH_STATES) else "UNKNOWN"


def _answer(answer: oip.ModelInferResponse, *, names: Names, index: Any) -> Answer:
    """Raises NotSupported for an output of a datatype that numpy has not."""
    arrays = {}
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if output.datatype not in DTYPES:
            raise errors.of(
                "UNIMPLEMENTED", f"output {output.name} is {output.datatype}, which this client cannot read"
            )
        arrays[output.name] = np.frombuffer(raw, DTYPES[output.datatype]).reshape(tuple(output.shape))
    return Answer(answer.model_version, arrays, names, index)
