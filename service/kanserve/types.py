"""Plain data types of inference, edge queries and descriptions, between transports, models, clients and commands.

Control and statistics have their own in `services/`. No type has behaviour beyond lookup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.manifest import HYBRID, LayerInfo, Manifest, SourceFile, Zone, row_shapes
from kanexport.shared.naming import UNNAMED, Names
from kanexport.shared.sections import (
    AS_TRAINED,
    NO_CERTIFICATE,
    NO_EDIT,
    NO_ERROR_BARS,
    NO_INTERVALS,
    UNSCALED,
    CertificateInfo,
    Edit,
    ErrorBars,
    Intervals,
    Scalers,
)

Array = NDArray[np.generic]
ParameterValue = str | int | float | bool  # the value of a parameter

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
    """Name, datatype and shape of a graph input or output; -1 stands for any size."""

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
    """Input tensor as the client sent it. Nothing is checked against a model yet."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes  # as raw contents: little-endian, row-major, strings with their lengths


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """Output tensor as the model computed it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes  # as of an input


@dataclass(frozen=True, slots=True)
class Insight:
    """Insights that a client requests with an inference.

    coverage  the position of each row's nodes on their grids
    top_k     number of inputs with the largest attribution to each output of each row; 0: none
    """

    coverage: bool = False
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class InferRequest:
    """Inference request. Times are on the monotonic clock.

    outputs  names of the requested outputs; empty: all
    classes  by output, the number of classes that the response has as text
    insight  the insights to compute; None: none
    caller   name of the authenticated caller; empty if there is none
    """

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
    """Inference response.

    version     the version that computed the outputs
    parameters  the response parameters by name
    """

    model: str
    version: int
    id: str
    outputs: tuple[OutputTensor, ...]
    parameters: tuple[tuple[str, ParameterValue], ...] = ()


ONLY = ""  # in an edge query, the input of a model that has one


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """Options of an edge query: selection and reduction of the edge values.

    top_k          number of edges of each layer with the largest magnitude over rows and positions; 0: all
    per_row        selection of the edges for every row and position by itself
    min_magnitude  least magnitude that an edge reaches for some row
    residual       add the sum of the other edges for each destination
    nodes          add the input vectors of the layers
    reductions     reductions over rows and positions, instead of values: names of `analysis/reduce`
    quantiles      quantiles of the reduction, each from 0 to 1
    bins           number of bins of the histogram
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
    """Edge query.

    rows    by input name, or `ONLY`: packed rows [row_count, ...]
    layers  indices or names; this and other empty lists mean all
    path    an input and an output: only the edges on the paths between them
    caller  name of the authenticated caller; empty if there is none
    """

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
    """Edge values of one layer: float32 [B, *positions, S, D], or [B, *positions, k] for selected edges.

    sources       [S], or [k] for selected edges, which pair up with `destinations`, strongest first
    destinations  [D] or [k]
    per_row       [B, *positions, k], if every row has its own edges; `sources` and `destinations` are empty then
    residual      [B, *positions, d]: the sum of the layer's other edges for each of `residual_destinations`
    nodes         [B, *positions, n]: the input vector of the layer
    reductions    by name, [..., S, D] or [..., k]; `values` is empty then
    picked        True if the edges are a list
    first_row     index of the first row, in one part of a response
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
        """Size of all arrays in bytes."""
        parts = [*(self.per_row or ()), self.residual, self.nodes, *(array for _, array in self.reductions)]
        return int(self.values.nbytes + sum(part.nbytes for part in parts if part is not None))


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated cost of an edge query, before execution.

    response_bytes      upper bound of the size of the response
    max_response_bytes  the server's limit of that size
    evaluations         number of edge evaluations
    max_evaluations     the server's limit of that number
    """

    response_bytes: int
    max_response_bytes: int
    evaluations: int
    max_evaluations: int

    @property
    def within_limits(self) -> bool:
        """True if the query is within the server's limits."""
        return self.response_bytes <= self.max_response_bytes and self.evaluations <= self.max_evaluations


@dataclass(frozen=True, slots=True)
class EdgeResponse:
    """Response to an edge query."""

    model: str
    version: int
    id: str
    digest: str
    layers: tuple[LayerEdges, ...]


@dataclass(frozen=True, slots=True)
class CurveRequest:
    """Request for edge curves. The edges are named as in EdgeRequest.

    points  number of points of each curve; 0: the default
    span    first and last point; None: each source's own domain
    """

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
    """Curves of some edges of a layer.

    x           [S, N], the points of each source
    phi         float32 [S, D, N]
    derivative  float32 [S, D, N], if requested
    domains     [S], the origin of the range of each source
    parts       by kind of basis, its part of `phi`
    extrema     [S, D, 2], the positions and values of the minimum and the maximum
    """

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
    """Request for feature attributions. Rows are packed as in EdgeRequest.

    outputs         indices of the explained outputs; empty: all
    reference       name of the reference; or see `reference_rows`
    reference_rows  packed reference rows of the client
    method          name of the method; empty: the default
    path_top_k      number of edges of each layer with the largest share; 0: none
    """

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
    """Edges of a layer with the largest shares of a difference: k for each row and output, strongest first.

    sources       [B, O, k]
    destinations  [B, O, k]
    values        [B, O, k], the share of each edge
    residual      [B, O], the share of all other edges
    """

    layer: int
    sources: NDArray[np.uint32]
    destinations: NDArray[np.uint32]
    values: NDArray[np.float64]
    residual: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Feature attributions of some rows. All arrays are float64.

    contributions     [B, n, O], of the input nodes of `layer`
    nodes_are_inputs  True if these nodes are the model's inputs
    base              [O], the prediction for the reference
    predictions       [B, O]
    path              one entry for each explained layer, if requested
    """

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
    """Importance scores of a layer over a batch. All arrays are float32.

    edges  [S, D], importance of each edge
    std    [S, D], standard deviation of the edge values
    nodes  [n], importance of each input node of the layer
    """

    layer: int
    edges: NDArray[np.float32]
    std: NDArray[np.float32]
    nodes: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Metadata of a version, for metadata, configuration and description.

    max_batch_size  0: the first dimension is not a batch
    manifest        None for a plain ONNX file
    node_tensors    tensors that feed the layers and are no model inputs
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
    """Entry of the repository index. `reason` is empty if the version has no fault."""

    name: str
    version: int
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Description:
    """Description of a served KAN, for clients and reports.

    verification_basis  a key of `manifest.VERIFICATION_BASES`
    claim               the verification basis in words
    options_assumed     by name, the export options that the exporter assumed
    options_given       by name, the export options that the user gave
    names               the names of features, units and classes
    zones               the largest errors of each group of verification rows
    files               the source files of the export
    scalers             the scaling of inputs and outputs that the graph applies
    certificate         certified ranges; without directions and Lipschitz bounds if they are many
    error_bars          facts of error bars, without the stored rows
    edit                how the version was made from another one

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
    options_assumed: Mapping[str, str]
    names: Names = UNNAMED
    out_of_range_policy: str = AS_TRAINED  # a key of `shared.sections.OUT_OF_RANGE_POLICIES`
    zones: tuple[Zone, ...] = ()
    tolerances: tuple[float, float] = (math.nan, math.nan)  # of outputs and of edges
    files: tuple[SourceFile, ...] = ()
    exporter: str = ""  # its version
    options_given: Mapping[str, str] = field(default_factory=dict)
    intervals: Intervals = NO_INTERVALS
    scalers: Scalers = UNSCALED
    certificate: CertificateInfo = NO_CERTIFICATE
    error_bars: ErrorBars = NO_ERROR_BARS
    edit: Edit = NO_EDIT

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
