"""Server responses as plain values, and the requests for curves, edges and scores."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kanexport.shared.error_bars import NAME as ERROR_BAR
from kanexport.shared.naming import UNNAMED, Names
from kanserve.analysis import curves
from kanserve.analysis.intervals import NAME as INTERVAL
from kanserve.analysis.intervals import OUT_OF_RANGE
from kanserve.client import encoding
from kanserve.client.encoding import from_fields
from kanserve.client.errors import ArgumentError
from kanserve.pb import grpc_service_pb2 as oip
from kanserve.pb import kan_pb2 as kan
from kanserve.types import (
    CurveBlock,
    Description,
    EdgeOptions,
    LayerCurves,
    LayerScores,
    ParameterValue,
    Scores,
    TensorInfo,
)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Inputs, outputs and batch limit of a served model. If `max_batch_size` is 0, the model has no batch dimension."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch_size: int
    serving: str = ""  # serving options as text
    names: Names = UNNAMED


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model version of the server's repository, whether or not it serves."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """Outputs of an inference by name, and the version that computed them.

    parameters  parameters of the response
    names       display names of a ServedModel
    index       row labels of a DataFrame
    """

    version: str
    outputs: dict[str, Any]
    parameters: dict[str, ParameterValue] = field(default_factory=dict)
    names: Names = UNNAMED
    index: Any = None

    def to_frame(self, output: str = "") -> Any:
        """An output [rows, n] as a pandas DataFrame, with the class names as columns, or y0, y1 ..., and the row labels
        of the request. `output`: its name, if there are several. Raises ValueError, ImportError without pandas."""
        own = [name for name in self.outputs if not name.startswith("kan.")]  # those are explanations and coverage
        name = output or (own[0] if len(own) == 1 else "")
        if name not in self.outputs:
            raise ArgumentError(
                f"unknown output {name!r}, expected one of {', '.join(map(repr, own))}",
                code="output-unknown",
                hint="pass the name of one output",
            )
        values = self.outputs[name]
        if values.ndim != 2:
            raise ArgumentError(
                f"output {name} has {values.ndim} axes, expected 2 for a DataFrame",
                code="output-not-a-table",
                hint="use the array in `outputs` instead",
            )
        return encoding.frame(values, list(self.columns()[name]), index=self.index)

    def columns(self) -> dict[str, tuple[str, ...]]:
        """The column names of one row of each output, in C order: see `Names.columns`."""
        sizes = {name: math.prod(values.shape[1:]) for name, values in self.outputs.items()}
        own = {name: size for name, size in sizes.items() if not name.startswith("kan.")}
        optional: dict[str, tuple[str, ...]] = {OUT_OF_RANGE: ("out of range",)} if OUT_OF_RANGE in sizes else {}
        if ERROR_BAR in sizes:
            optional[ERROR_BAR] = tuple(f"{self.names.output(at)} error bar" for at in range(sizes[ERROR_BAR]))
        if INTERVAL in sizes:  # both ends of each number, or the classes
            ends = ("",) if self.outputs[INTERVAL].dtype.kind == "u" else (" lower", " upper")
            numbers = range(sizes[INTERVAL] // len(ends))
            optional[INTERVAL] = tuple(f"{self.names.output(at)}{end}" for at in numbers for end in ends)
        return UNNAMED.columns(sizes) | self.names.columns(own) | optional


if not TYPE_CHECKING:  # a type checker would accept any name of a module with this function

    def __getattr__(name: str) -> Any:
        if name != "Answer":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn(f"{__name__}.{name} is now {__name__}.InferenceResult", DeprecationWarning, stacklevel=2)
        return InferenceResult


class Expected(NamedTuple):
    """Properties that the response to an inference must have.

    version  the requested version; "": any
    outputs  by name, its metadata, None if the model's metadata does not have it
    rows     number of rows of these outputs; None if the client does not know it
    """

    version: str
    outputs: Mapping[str, TensorInfo | None]
    rows: int | None


def expected_of(version: str, outputs: Sequence[str], shape: Sequence[int], model: ServedModel | None) -> Expected:
    """The properties for a request to a model; None: its metadata is not known. `shape`: that of the first input."""
    known = {tensor.name: tensor for tensor in model.outputs} if model else {}
    rows = shape[0] if shape and model and model.max_batch_size else None
    return Expected(version, {name: known.get(name) for name in outputs} if outputs else known, rows)


def result_of(message: oip.ModelInferResponse, *, expected: Expected, names: Names, index: Any) -> InferenceResult:
    """The result of an inference. Raises NotSupported for an output of a datatype that numpy does not have, ValueError
    for a response without the expected properties."""
    check_version(message.model_version, expected.version)
    arrays: dict[str, Any] = {}
    outputs, contents = message.outputs, message.raw_output_contents
    if len(outputs) != len(contents):
        raise ValueError(f"it has {len(outputs)} outputs, but the contents of {len(contents)}")
    for at in range(len(outputs)):  # the iterators of protobuf take three times as long
        output = outputs[at]
        name = output.name
        if name in arrays:
            raise ValueError(f"output '{name}' occurs twice")
        arrays[name] = _array(name, output.datatype, tuple(output.shape[:]), contents[at], expected)
    for name in expected.outputs:
        if name not in arrays:
            raise ValueError(f"output '{name}' is missing")
    parameters = message.parameters
    return InferenceResult(
        message.model_version, arrays, encoding.read_parameters(parameters) if parameters else {}, names, index
    )


def _array(name: str, datatype: str, shape: tuple[int, ...], raw: bytes, expected: Expected) -> Any:
    """The values of an output. Raises the errors of `result_of`."""
    dtype = encoding.dtype_of("output", name, datatype)
    known = expected.outputs.get(name)
    if known is not None and datatype != known.datatype:
        raise ValueError(f"output '{name}' is {datatype}, expected {known.datatype}")
    if known is not None and not _fits(shape, known.shape):
        raise ValueError(f"output '{name}' has shape {list(shape)}, expected {list(known.shape)}")
    if expected.rows is not None and name in expected.outputs:
        check_rows(f"output '{name}'", shape, expected.rows)
    size = math.prod(shape) * dtype.itemsize
    if size != len(raw) or (shape and min(shape) < 0):
        raise ValueError(f"output '{name}' of shape {list(shape)} has {len(raw)} bytes, expected {size}")
    return np.ndarray(shape, dtype, raw)


def _fits(shape: tuple[int, ...], known: tuple[int, ...]) -> bool:
    """True if a shape is one of the metadata, in which -1 is any extent, and no axes are any shape."""
    if len(shape) != len(known):
        return not known
    return all([fixed in (-1, extent) for extent, fixed in zip(shape, known, strict=True)])


def check_version(version: str, expected: str) -> None:
    """Raises ValueError if another version than the requested one (such as "2") responded. "": any."""
    if expected and version.lstrip("0") != expected.lstrip("0"):
        raise ValueError(f"it is of version '{version}', expected version '{expected}'")


def check_rows(what: str, shape: Sequence[int], rows: int) -> None:
    """Raises ValueError if the first extent of a shape is not the number of rows of the request."""
    if tuple(shape[:1]) != (rows,):
        raise ValueError(f"{what} has shape {list(shape)}, expected {rows} rows")


@dataclass(frozen=True, slots=True)
class LayerValues:
    """Edge values of one layer. `values` is float32 [rows, *positions, sources, destinations], or for the strongest
    edges [rows, *positions, k]. Their sources and destinations are [k], or for a selection per row
    [rows, *positions, k].

    `residual` [rows, *positions, destinations]: the sum of the layer's other edges for each of `residual_destinations`.
    `nodes` [rows, *positions, n]: the input vector of the layer. `reductions`: reductions over rows and positions by
    name, instead of values. None, or empty, unless requested.
    """

    layer: int
    sources: np.ndarray[Any, np.dtype[np.int64]]
    destinations: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float32]]
    residual: np.ndarray[Any, np.dtype[np.float32]] | None = None
    residual_destinations: tuple[int, ...] = ()
    nodes: np.ndarray[Any, np.dtype[np.float32]] | None = None
    reductions: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]] = field(default_factory=dict)


def layers_by_index_or_name(layers: Sequence[int | str]) -> dict[str, Any]:
    """The fields of a request that select layers."""
    return {
        "layers": [layer for layer in layers if isinstance(layer, int)],
        "layer_names": [layer for layer in layers if isinstance(layer, str)],
    }


def curves_of(blocks: Iterable[kan.CurveBlock]) -> tuple[LayerCurves, ...]:
    """The layers of a response."""
    return curves.joined(map(_block, blocks))


def _block(message: kan.CurveBlock) -> CurveBlock:
    edges = len(message.sources), len(message.destinations)
    shape = *edges, message.points
    extrema = None
    if message.extrema:
        x = np.frombuffer(message.extrema_x, "<f8").reshape(*edges, 2)
        extrema = x, _floats(message.extrema, (*edges, 2))
    return from_fields(
        CurveBlock,
        message,
        x=np.frombuffer(message.x, "<f8").reshape(-1, message.points),
        phi=_floats(message.phi, shape),
        derivative=_floats(message.derivative, shape) if message.derivative else None,
        parts=tuple((basis.kind, _floats(basis.phi, shape)) for basis in message.parts),
        extrema=extrema,
    )


def edges_request(
    described: Description,
    fields: Mapping[str, Any],
    *,
    layers: Sequence[int | str] = (),
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    path: tuple[int, int] | None = None,
    **wanted: Any,
) -> kan.QueryEdgesRequest:
    """The request message for edge values. `fields`: those of the rows; `wanted`: those of EdgeOptions. Layers are
    given by index or by name."""
    message = kan.QueryEdgesRequest(
        model_name=described.name,
        model_version=described.version,
        **fields,
        **layers_by_index_or_name(layers),
        sources=sources,
        destinations=destinations,
        **dataclasses.asdict(EdgeOptions(**wanted)),
    )
    if path is not None:
        message.path_from, message.path_to = path
    return message


def edges_of(
    described: Description, request: kan.QueryEdgesRequest, message: kan.QueryEdgesResponse
) -> tuple[LayerValues, ...]:
    """The layers of a response. Raises ValueError if they do not fit the request."""
    check_version(message.model_version, described.version)
    if missing := set(request.layers) - {layer.layer for layer in message.layers}:
        raise ValueError(f"layer {min(missing)} is missing")
    rows = 0 if request.reductions else request.row_count
    result = []
    for layer in message.layers:
        shape = tuple(layer.shape)
        check_rows(f"layer {layer.layer}", shape, rows)
        nodes = (len(layer.sources), len(layer.destinations))
        axes = () if request.per_row else nodes[:1] if request.top_k or request.min_magnitude else nodes
        if shape[len(shape) - len(axes) :] != axes:
            raise ValueError(f"layer {layer.layer} has shape {list(shape)}, expected the last axes {list(axes)}")
        lead = shape[: 1 + len(described.layers[layer.layer].positions)]
        sources, destinations = np.array(layer.sources, np.int64), np.array(layer.destinations, np.int64)
        if layer.per_row_sources:
            sources, destinations = (
                np.frombuffer(part, "<u4").astype(np.int64).reshape(shape)
                for part in (layer.per_row_sources, layer.per_row_destinations)
            )
        result.append(
            LayerValues(
                layer=layer.layer,
                sources=sources,
                destinations=destinations,
                values=_floats(layer.values, shape),
                residual=_floats(layer.residual, (*lead, len(layer.residual_destinations)))
                if layer.residual_destinations
                else None,
                residual_destinations=tuple(layer.residual_destinations),
                nodes=_floats(layer.nodes, (*lead, layer.node_count)) if layer.node_count else None,
                reductions={part.kind: _floats(part.values, tuple(part.shape)) for part in layer.reductions},
            )
        )
    return tuple(result)


def _floats(data: bytes, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(data, "<f4").reshape(shape)


def scores_of(described: Description, message: kan.EdgeScoresResponse) -> Scores:
    """The response as plain values. Raises ValueError if it is of another version."""
    check_version(message.model_version, described.version)
    layers = tuple(
        LayerScores(
            layer.layer,
            _floats(layer.edges, (layer.sources, layer.destinations)),
            _floats(layer.std, (layer.sources, layer.destinations)),
            _floats(layer.nodes, (-1,)),
        )
        for layer in message.layers
    )
    return from_fields(Scores, message, version=message.model_version, layers=layers)
