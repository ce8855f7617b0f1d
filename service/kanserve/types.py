"""The nouns between wire and model: plain data, no behaviour beyond lookup."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kanexport.contract.manifest import HYBRID, LayerInfo, Manifest, SourceFile, Zone, row_shapes
from kanexport.contract.naming import UNNAMED, Names
from kanexport.contract.sections import AS_TRAINED

Array = NDArray[np.generic]
ParameterValue = str | int | bool  # the value of a parameter

# Open Inference Protocol datatype -> how its bytes lie on the wire. Explicitly
# little-endian: an array in the wrong byte order is run without complaint.
DTYPES: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {
        "BOOL": np.dtype("?"),
        "UINT8": np.dtype("<u1"),
        "UINT16": np.dtype("<u2"),
        "UINT32": np.dtype("<u4"),
        "UINT64": np.dtype("<u8"),
        "INT8": np.dtype("<i1"),
        "INT16": np.dtype("<i2"),
        "INT32": np.dtype("<i4"),
        "INT64": np.dtype("<i8"),
        "FP16": np.dtype("<f2"),
        "FP32": np.dtype("<f4"),
        "FP64": np.dtype("<f8"),
    }
)
BYTES, BF16 = "BYTES", "BF16"
# The same for all datatypes, as arrays of the server: BF16, which numpy has not, by its bit patterns, and
# strings as str, which lie on the wire as their length in four bytes and then UTF-8.
NUMPY_DTYPES: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {**DTYPES, BF16: np.dtype("<u2"), BYTES: np.dtype(object)}
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A graph input or output: -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, all other dimensions known; unknown ones count as 1, a string as 8 bytes."""
        size = NUMPY_DTYPES[self.datatype].itemsize
        for extent in self.shape[1:]:
            size *= max(extent, 1)
        return size


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input as sent: claims beside the bytes, nothing checked against a model yet."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes  # as raw contents: little-endian, row-major, strings with their lengths


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output as computed."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes  # as of an input


@dataclass(frozen=True, slots=True)
class Insight:
    """What is to be told beside an answer: of each row where its nodes are on their grids (`coverage`), and of each of
    its outputs the `top_k` inputs that have most to do with it."""

    coverage: bool = False
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference. `outputs` empty asks for all; `classes`: of which outputs so many are wanted as text;
    times are on the monotonic clock. `insight`: what else is wanted, by `caller`, as in EdgeRequest."""

    model: str
    version: str
    id: str
    inputs: tuple[InputTensor, ...]
    outputs: tuple[str, ...] = ()
    classes: tuple[tuple[str, int], ...] = ()
    queue_timeout: float | None = None  # seconds to wait at most before it runs
    deadline: float | None = None
    priority: int = 0  # 1 is the highest; 0: the model's default
    insight: Insight | None = None
    caller: str = ""


@dataclass(frozen=True, slots=True)
class InferResponse:
    """The answer; `version` is the one that was used. `parameters`: what is said of it, by name."""

    model: str
    version: int
    id: str
    outputs: tuple[OutputTensor, ...]
    parameters: tuple[tuple[str, ParameterValue], ...] = ()


ONLY = ""  # in an edge query, the input of a model that has one


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """What an edge query is to tell of the edges that it means, beside or instead of their values for each row.

    top_k          so many edges of each layer, those of largest magnitude over rows and positions; 0: all
    per_row        of every row and position by itself
    min_magnitude  edges that reach it for some row
    residual       what else adds up to each destination
    nodes          what the layers are given
    reductions     over rows and positions, instead of values: names of `analysis/reduce`, with `quantiles`, each from
                   0 to 1, and so many `bins` of the histogram
    """

    top_k: int = 0
    per_row: bool = False
    min_magnitude: float = 0.0
    residual: bool = False
    nodes: bool = False
    reductions: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = ()
    bins: int = 0


PLAIN = EdgeOptions()  # the values, and all of them


@dataclass(frozen=True, slots=True)
class EdgeRequest:
    """An edge query. `rows` are packed, [row_count, ...], by the input's name, or `ONLY`; empty
    lists mean all. Layers are given by index or by name. `path`: edges on the ways from this input to that output.
    `caller`: its name, if it showed one."""

    model: str
    version: str
    id: str
    rows: tuple[tuple[str, bytes], ...]
    row_count: int
    layers: tuple[int | str, ...] = ()
    sources: tuple[int, ...] = ()
    destinations: tuple[int, ...] = ()
    path: tuple[int, int] | None = None
    options: EdgeOptions = PLAIN
    deadline: float | None = None
    caller: str = ""


@dataclass(frozen=True, slots=True)
class LayerEdges:
    """Edge values of one layer: float32 [B, *positions, S, D], or [B, *positions, k]
    when edges were picked.

    `sources` and `destinations` name the axes; of picked edges they pair up, one edge
    per column, strongest first. Where every row has its own, `per_row` holds them, [B, *positions, k], and both
    are empty.

    `residual` [B, *positions, d]: the sum of the layer's other edges for each of `residual_destinations`. `nodes`
    [B, *positions, n]. `reductions`: by name, [..., S, D] or [..., k]. With reductions, `values` is empty.
    `picked`: the edges are a list. `first_row`: of a part of an answer.
    """

    layer: int
    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    values: NDArray[np.float32]
    per_row: tuple[NDArray[np.uint32], NDArray[np.uint32]] | None = None
    residual: NDArray[np.float32] | None = None
    residual_destinations: tuple[int, ...] = ()
    nodes: NDArray[np.float32] | None = None
    reductions: tuple[tuple[str, NDArray[np.float32]], ...] = ()
    picked: bool = False
    first_row: int = 0

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        parts = [*(self.per_row or ()), self.residual, self.nodes, *(array for _, array in self.reductions)]
        return int(self.values.nbytes + sum(part.nbytes for part in parts if part is not None))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an edge query takes, before anything is computed: bytes of its answer, at most, and edge evaluations; and
    how much one may take of each."""

    response_bytes: int
    max_response_bytes: int
    evaluations: int
    max_evaluations: int

    @property
    def within_limits(self) -> bool:
        """Whether the query would be answered."""
        return self.response_bytes <= self.max_response_bytes and self.evaluations <= self.max_evaluations


@dataclass(frozen=True, slots=True)
class EdgeResponse:
    """The answer to an edge query."""

    model: str
    version: int
    id: str
    digest: str
    layers: tuple[LayerEdges, ...]


@dataclass(frozen=True, slots=True)
class CurveRequest:
    """Which curves: edges as in EdgeRequest, at so many `points` (0: as usual) from the first to the last of `span`;
    None: over each source's own domain."""

    model: str
    version: str
    points: int
    layers: tuple[int | str, ...] = ()
    sources: tuple[int, ...] = ()
    destinations: tuple[int, ...] = ()
    span: tuple[float, float] | None = None
    derivative: bool = False
    parts: bool = False
    extrema: bool = False
    deadline: float | None = None
    caller: str = ""


@dataclass(frozen=True, slots=True)
class CurveBlock:
    """Curves of some edges of a layer: `x` [S, N] of each source, `phi` and perhaps `derivative` [S, D, N], float32;
    `domains` [S]: where the range of each source comes from; `parts`: what each basis has of `phi`, by its kind;
    `extrema` [S, D, 2]: where it is smallest and largest, and what it is there."""

    layer: int
    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    x: NDArray[np.float64]
    phi: NDArray[np.float32]
    derivative: NDArray[np.float32] | None
    domains: tuple[str, ...]
    parts: tuple[tuple[str, NDArray[np.float32]], ...] = ()
    extrema: tuple[NDArray[np.float64], NDArray[np.float32]] | None = None


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """What is to be explained: rows as in EdgeRequest; of which `outputs`, all if none are named; against which
    `reference`: its name, or rows of the caller's, `reference_rows`, packed as the others; by which `method`, empty:
    the usual one. `path_top_k`: number of edges of each layer with the largest share; 0: none."""

    model: str
    version: str
    id: str
    rows: tuple[tuple[str, bytes], ...]
    row_count: int
    reference: str = ""
    reference_rows: tuple[tuple[str, bytes], ...] = ()
    reference_count: int = 0
    outputs: tuple[int, ...] = ()
    method: str = ""
    path_top_k: int = 0
    deadline: float | None = None
    caller: str = ""


@dataclass(frozen=True, slots=True)
class LayerPath:
    """The edges of a layer that carried most of a difference, k of every row and output, strongest first: their
    `sources` and `destinations` [B, O, k], what each carried, `values` [B, O, k], and what all others did, `residual`
    [B, O]."""

    layer: int
    sources: NDArray[np.uint32]
    destinations: NDArray[np.uint32]
    values: NDArray[np.float64]
    residual: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of some rows: `contributions` [B, n, O] of the nodes that `layer` is given, which may be the model's
    inputs (`nodes_are_inputs`); `base` [O], the prediction of the reference; `predictions` [B, O]. All float64. `path`:
    one entry for each explained layer, if requested."""

    layer: int
    nodes_are_inputs: bool
    contributions: NDArray[np.float64]
    base: NDArray[np.float64]
    predictions: NDArray[np.float64]
    path: tuple[LayerPath, ...] = ()

    @property
    def completeness_error(self) -> NDArray[np.float64]:
        """[B, O]: by how much base and contributions miss the predictions."""
        return np.asarray(np.abs(self.base + self.contributions.sum(axis=1) - self.predictions))


@dataclass(frozen=True, slots=True)
class LayerScores:
    """Of a layer over a batch: `edges` [S, D], what each edge matters; `std` [S, D], the standard deviation of its
    values; `nodes` [n], what each node that the layer is given matters. All float32."""

    layer: int
    edges: NDArray[np.float32]
    std: NDArray[np.float32]
    nodes: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a version is, for metadata, configuration and description.

    `node_tensors`: what feeds the layers and is no input. `manifest` is None for a plain ONNX file. With
    `max_batch_size` 0 the first dimension is not a batch.
    """

    name: str
    version: int
    max_batch_size: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    digest: str  # sha256 of the graph, hexadecimal
    manifest: Manifest | None = None
    node_tensors: tuple[TensorInfo, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One line of the repository index. `reason` is empty while all is well."""

    name: str
    version: int
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Description:
    """A served KAN, as a client or a report describes it.

    `verification_basis` is a key of `manifest.VERIFICATION_BASES`. `claim` is the same in words. `assumed`: options
    that the exporter assumed, by name. `given`: options that its user gave. `names`: the names of features and
    classes. `zones`: the largest errors of each group of rows in the verification. `files`: the exported files.

    The `edge_class` of a layer is never empty. The server does not send the `node_tensor`, `edges_file` and
    `edges_tensor` of a layer: a client has empty ones.
    """

    name: str
    version: str
    digest: str
    family: str
    edge_class: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    max_batch_size: int
    max_rows: int  # of one edge query
    max_response_bytes: int
    notes: tuple[str, ...]
    verification_basis: str
    claim: str
    assumed: Mapping[str, str]
    names: Names = UNNAMED
    out_of_range_policy: str = AS_TRAINED  # a key of `contract.sections.OUT_OF_RANGE_POLICIES`
    zones: tuple[Zone, ...] = ()
    tolerances: tuple[float, float] = (math.nan, math.nan)  # of outputs and of edges
    files: tuple[SourceFile, ...] = ()
    exporter: str = ""  # its version
    given: Mapping[str, str] = field(default_factory=dict)

    @property
    def verified_error(self) -> float:
        """The largest relative output error over the finite zones. NaN without zones."""
        return max((zone.outputs_max_rel for zone in self.zones if zone.name != "nonfinite"), default=math.nan)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of a row in the network, as `manifest.row_shapes` returns them."""
        inputs, outputs = ([tensor.shape for tensor in tensors] for tensors in (self.inputs, self.outputs))
        return row_shapes(inputs, self.layers, outputs)

    @property
    def input(self) -> TensorInfo:
        """The first input, of most models the only one."""
        return self.inputs[0]

    @property
    def output(self) -> TensorInfo:
        """The first output, of most models the only one."""
        return self.outputs[0]

    def source(self, layer: int, at: int) -> str:
        """The name of a source of a layer: its feature (x0, x1 ... without names), or its number."""
        if layer or self.family == HYBRID:
            return str(at)
        columns = next((step.indices for step in self.layers[0].pre_steps if step.kind == "select"), ())
        return self.names.feature(columns[at] if columns else at)

    def destination(self, layer: int, at: int) -> str:
        """The name of a destination of a layer: its class (y0, y1 ... without names), or its number."""
        last = self.layers[layer]
        moved = any(step.kind in ("select", "product") for step in last.post_steps)
        if layer < len(self.layers) - 1 or moved or self.family == HYBRID:
            return str(at)
        return self.names.output(at)


@dataclass(frozen=True, slots=True)
class LayerCurves:
    """Curves of some edges of a layer, joined from its blocks. `phi` [S, D, N] and `derivative`, if requested, over `x`
    [S, N] of each source. `domains` [S]: the origin of each source's range: requested, grid, reference or assumed.
    `parts`: the share of each basis, or of `symbolic`, in phi. `extrema`, if requested: the x of the smallest and the
    largest value of each curve [S, D, 2], and these values."""

    layer: int
    sources: tuple[int, ...]
    destinations: tuple[int, ...]
    x: NDArray[np.float64]
    phi: NDArray[np.float32]
    derivative: NDArray[np.float32] | None
    domains: tuple[str, ...]
    parts: Mapping[str, NDArray[np.float32]]
    extrema: tuple[NDArray[np.float64], NDArray[np.float32]] | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of all layers over `row_count` rows: the caller's ("rows"), the reference rows of the export
    ("reference"), or the analyzed rows of the model's live traffic ("live"). `notes`: sentences for the reader."""

    version: str
    source: str
    row_count: int
    layers: tuple[LayerScores, ...]
    notes: tuple[str, ...] = ()

    @property
    def features(self) -> NDArray[np.float32]:
        """The scores of the model's inputs: pykan's feature_score."""
        return self.layers[0].nodes
