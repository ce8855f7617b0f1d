"""Results of client calls as plain values."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.contract.naming import UNNAMED, Names
from kanserve.client import encoding
from kanserve.client.encoding import packed
from kanserve.client.model_info import Description
from kanserve.pb import kan_pb2 as kan
from kanserve.types import EdgeOptions, Estimate, ParameterValue, TensorInfo


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Metadata that inference needs. `max_batch_size` 0: the model promises no batch dimension."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    max_batch_size: int
    serving: str = ""  # how the server runs it, in words
    names: Names = UNNAMED


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """Entry of the repository index: a model version, whether or not it serves."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Response to an inference request.

    version     the version that computed the outputs
    outputs     arrays by output name
    parameters  response parameters by name
    names       names of features, units and classes of the model
    index       row labels of a DataFrame
    """

    version: str
    outputs: dict[str, Any]
    parameters: dict[str, ParameterValue] = field(default_factory=dict)
    names: Names = UNNAMED
    index: Any = None

    def to_frame(self, output: str = "") -> Any:
        """An output [rows, n] as a pandas DataFrame, its columns called as the classes, else y0, y1 ...; its rows as
        those that were asked. `output`: its name, where there are several. Raises ValueError, ImportError without
        pandas."""
        own = [name for name in self.outputs if not name.startswith("kan.")]  # those are explanations and the like
        name = output or (own[0] if len(own) == 1 else "")
        if name not in self.outputs:
            raise ValueError(f"output {name!r} is not among {', '.join(map(repr, own))}: which is meant?")
        values = self.outputs[name]
        if values.ndim != 2:
            raise ValueError(f"output {name} has {values.ndim} axes, and a DataFrame has two, rows and columns")
        return encoding.table(values, self.columns()[name], index=self.index)

    def columns(self) -> dict[str, tuple[str, ...]]:
        """The column names of one row of each output, in C order: see `Names.columns`."""
        sizes = {name: math.prod(values.shape[1:]) for name, values in self.outputs.items()}
        own = {name: size for name, size in sizes.items() if not name.startswith("kan.")}
        return UNNAMED.columns(sizes) | self.names.columns(own)


@dataclass(frozen=True, slots=True)
class LayerValues:
    """Edge values of one layer.

    values      float32 [rows, *positions, sources, destinations], or [rows, *positions, k] for the strongest edges
    sources     indices; [k] for the strongest edges, or [rows, *positions, k] if every row has its own
    residual    [rows, *positions, destinations]: the sum of the other edges for each of `residual_destinations`
    nodes       [rows, *positions, n]: the input vector of the layer
    reductions  by name, reductions over rows and positions, instead of values

    The last three are None or empty unless requested.
    """

    layer: int
    sources: np.ndarray[Any, np.dtype[np.int64]]
    destinations: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float32]]
    residual: np.ndarray[Any, np.dtype[np.float32]] | None = None
    residual_destinations: tuple[int, ...] = ()
    nodes: np.ndarray[Any, np.dtype[np.float32]] | None = None
    reductions: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LayerCurves:
    """Curves of some edges of a layer.

    x           [S, N], the points of each source
    phi         float32 [S, D, N]
    derivative  float32 [S, D, N], if requested
    domains     [S], the origin of each range: requested, grid, reference or assumed
    parts       by basis, or `symbolic`, its part of phi
    extrema     positions and values [S, D, 2] of the minimum and the maximum, if requested
    """

    layer: int
    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    x: NDArray[np.float64]
    phi: NDArray[np.float32]
    derivative: NDArray[np.float32] | None
    domains: tuple[str, ...]
    parts: Mapping[str, NDArray[np.float32]]
    extrema: tuple[NDArray[np.float64], NDArray[np.float32]] | None = None


def curves_request(
    model: str,
    version: str,
    *,
    layers: Sequence[int | str],
    sources: Sequence[int],
    destinations: Sequence[int],
    points: int,
    span: tuple[float, float] | None,
    derivative: bool,
    parts: bool,
    extrema: bool,
) -> kan.GetCurvesRequest:
    """The message that asks for them."""
    low, high = span or (None, None)
    return kan.GetCurvesRequest(
        model_name=model,
        model_version=version,
        layers=[layer for layer in layers if isinstance(layer, int)],
        layer_names=[layer for layer in layers if isinstance(layer, str)],
        sources=sources,
        destinations=destinations,
        points=points,
        low=low,
        high=high,
        derivative=derivative,
        parts=parts,
        extrema=extrema,
    )


def joined(blocks: Iterable[kan.CurveBlock]) -> tuple[LayerCurves, ...]:
    """The blocks of an answer, a layer each: they come layer by layer, a source's destinations one after the other."""
    layers: dict[int, list[kan.CurveBlock]] = {}
    for block in blocks:
        layers.setdefault(block.layer, []).append(block)
    return tuple(_layer_curves(at, layer_blocks) for at, layer_blocks in layers.items())


def _layer_curves(at: int, blocks: Sequence[kan.CurveBlock]) -> LayerCurves:
    rows: dict[tuple[int, ...], list[kan.CurveBlock]] = {}
    for block in blocks:
        rows.setdefault(tuple(block.sources), []).append(block)
    columns, *_ = rows.values()  # the same for all
    ends = [row[0] for row in rows.values()]
    return LayerCurves(
        layer=at,
        sources=tuple(itertools.chain.from_iterable(rows)),
        destinations=tuple(itertools.chain.from_iterable(block.destinations for block in columns)),
        x=np.concatenate([np.frombuffer(end.x, "<f8").reshape(-1, end.points) for end in ends]),
        phi=_array(rows.values(), lambda block: block.phi),
        derivative=_array(rows.values(), lambda block: block.derivative) if blocks[0].derivative else None,
        domains=tuple(itertools.chain.from_iterable(end.domains for end in ends)),
        parts={part.kind: _array(rows.values(), _phi_of(at)) for at, part in enumerate(blocks[0].parts)},
        extrema=_extrema(rows.values()) if blocks[0].extrema else None,
    )


def _extrema(rows: Iterable[Sequence[kan.CurveBlock]]) -> tuple[Any, Any]:
    def all_(of: str, dtype: str) -> Any:
        return np.concatenate(
            [
                np.concatenate(
                    [np.frombuffer(getattr(block, of), dtype).reshape(len(block.sources), -1, 2) for block in row],
                    axis=1,
                )
                for row in rows
            ]
        )

    return all_("extrema_x", "<f8"), all_("extrema", "<f4")


def _phi_of(part: int) -> Callable[[kan.CurveBlock], bytes]:
    return lambda block: block.parts[part].phi


def _array(rows: Iterable[Sequence[kan.CurveBlock]], of: Callable[[kan.CurveBlock], bytes]) -> Any:
    return np.concatenate([np.concatenate([_part(block, of(block)) for block in row], axis=1) for row in rows])


def _part(block: kan.CurveBlock, data: bytes) -> Any:
    return np.frombuffer(data, "<f4").reshape(len(block.sources), len(block.destinations), block.points)


def edges_request(
    described: Description,
    fields: Mapping[str, Any],
    *,
    layers: Sequence[int | str] = (),
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    path: tuple[int, int] | None = None,
    **options: Any,
) -> kan.QueryEdgesRequest:
    """Request message of an edge query, with layers by index or by name.

    fields   the fields of the rows
    options  the fields of `EdgeOptions`
    """
    what = EdgeOptions(**options)
    message = kan.QueryEdgesRequest(
        model_name=described.name,
        model_version=described.version,
        **fields,
        layers=[layer for layer in layers if isinstance(layer, int)],
        layer_names=[layer for layer in layers if isinstance(layer, str)],
        sources=sources,
        destinations=destinations,
        **dataclasses.asdict(what),
    )
    if path is not None:
        message.path_from, message.path_to = path
    return message


def edges_of(described: Description, answer: kan.QueryEdgesResponse) -> tuple[LayerValues, ...]:
    """The layers of an answer."""
    return tuple(_layer_edges(described, layer) for layer in answer.layers)


def estimate(answer: kan.QueryEdgesResponse) -> Estimate:
    """Estimated cost of a query."""
    message = answer.estimate
    return Estimate(message.response_bytes, message.max_response_bytes, message.evaluations, message.max_evaluations)


def _layer_edges(described: Description, layer: kan.LayerEdges) -> LayerValues:
    shape = tuple(layer.shape)
    lead = shape[: 1 + len(described.layers[layer.layer].positions)]
    sources, destinations = np.array(layer.sources, np.int64), np.array(layer.destinations, np.int64)
    if layer.per_row_sources:
        sources, destinations = (
            np.frombuffer(part, "<u4").astype(np.int64).reshape(shape)
            for part in (layer.per_row_sources, layer.per_row_destinations)
        )
    return LayerValues(
        layer=layer.layer,
        sources=sources,
        destinations=destinations,
        values=_floats(layer.values, shape),
        residual=_floats(layer.residual, (*lead, len(layer.residual_destinations)))
        if layer.residual_destinations
        else None,
        residual_destinations=tuple(layer.residual_destinations),
        nodes=_floats(layer.nodes, (*lead, layer.node_count)) if layer.node_count else None,
        reductions={
            reduction.kind: _floats(reduction.values, tuple(reduction.shape)) for reduction in layer.reductions
        },
    )


def _floats(data: bytes, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(data, "<f4").reshape(shape)


@dataclass(frozen=True, slots=True)
class LayerScores:
    """Importance scores of a layer, as pykan's edge_scores and node_scores. All arrays are float32.

    edges  [S, D]
    std    [S, D], the standard deviation of each edge's values
    nodes  [n], of the input nodes of the layer
    """

    layer: int
    edges: NDArray[np.float32]
    std: NDArray[np.float32]
    nodes: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Scores:
    """Importance scores of all layers.

    source     the rows: "rows" of the caller, "reference" rows of the export, or analysed "live" traffic
    row_count  number of rows
    notes      remarks for the reader
    """

    version: str
    source: str
    row_count: int
    layers: tuple[LayerScores, ...]
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> NDArray[np.float32]:
        """Importance of the model's inputs: pykan's feature_score."""
        return self.layers[0].nodes


def scores_request(described: Description, rows: Any, source: str) -> kan.EdgeScoresRequest:
    """The message that asks for them; without rows, over those of the export, or over what is asked for."""
    fields = {} if rows is None else packed(described, rows)
    return kan.EdgeScoresRequest(model_name=described.name, model_version=described.version, source=source, **fields)


def scores_of(answer: kan.EdgeScoresResponse) -> Scores:
    """The answer as plain values."""
    return Scores(
        answer.model_version,
        answer.source,
        answer.row_count,
        tuple(map(_layer_scores, answer.layers)),
        tuple(answer.notes),
    )


def _layer_scores(layer: kan.LayerScores) -> LayerScores:
    edges, std = (
        np.frombuffer(part, "<f4").reshape(layer.sources, layer.destinations) for part in (layer.edges, layer.std)
    )
    return LayerScores(layer.layer, edges, std, np.frombuffer(layer.nodes, "<f4"))
