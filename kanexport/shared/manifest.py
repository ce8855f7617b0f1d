"""Manifest of a bundle (`manifest.json`), which the exporter writes and the server reads.

The exporter writes it last, so a version directory without one is incomplete. The server and the client know models
through this module only; they also import other modules of `kanexport.shared`. It uses the standard library. The
parser is strict: it rejects unknown keys, missing keys and wrong types by name.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.shared import safe_files, sections, serialization
from kanexport.shared.naming import UNNAMED, Names
from kanexport.shared.serialization import LIMIT
from kanexport.shared.serialization import ManifestError as ManifestError

FORMAT = 1
FILE_NAME = "manifest.json"
EXPORT_AGAIN = "kanserve export CHECKPOINT --repository REPOSITORY --name NAME --force"
MODEL_FILE = "model.onnx"
MANY_FILE = "model_many.onnx"  # the same network for runs of many rows
NETWORK_FILE = "network.safetensors"  # the exact network, which `kanserve certify` and `kanserve edit` read
WEIGHTS_FILE = "weights.bin"  # constants of all graphs of a large model; the graphs name it as external data
NUMBERS_FILE = "numbers.bin"  # long lists of a large manifest, see `Manifest.stored`
SIZE_LIMIT = 4 * 2**20  # bytes of a manifest; one of 10^6 edges has 1.0 MiB before the exporter moves its lists
SMALL = 2**19  # bytes of a manifest up to which its lists stay in it, for readability

# How far a runtime may optimize the graphs: without a limit, or up to onnxruntime's ORT_ENABLE_BASIC.
ANY, BASIC = "", "basic"
NUMBERS = re.compile(r"\[\s+([-+.\deE,\s]+?)\s+\]")
HYBRID = "hybrid"  # the family of a torch module with KAN layers in it
READING, EXPECTED_OUTPUTS, MODULE, EDITED = "reading", "expected-outputs", "module", "edited"
CHOSEN_TOLERANCE = "chosen-tolerance"  # recorded outputs of the trained model, which the usual tolerance rejects
# Bases of a verification, and their descriptions.
VERIFICATION_BASES = {
    READING: "verified against kanserve's interpretation of the checkpoint; not compared with the trained model",
    EXPECTED_OUTPUTS: "verified against the trained model",
    CHOSEN_TOLERANCE: "compared with the trained model, within a tolerance you chose",
    MODULE: "verified against the PyTorch module, as PyTorch runs it",
    EDITED: "verified against the edited network; not compared with the trained model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """File of the version directory, by its name. The server rejects files that are not listed."""

    path: str
    size: int  # bytes
    sha256: str  # hexadecimal


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Input or output of a graph.

    datatype  FP32, FP64, INT64 and so on, in the Open Inference Protocol's names
    shape     -1 for the rows, then the known extents, such as (-1, 3) or (-1, 1, 8, 8)
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStep:
    """Step on the node vectors of a layer. `kind` decides its meaning and the fields that it uses:

    select     `indices` are the columns kept, in this order
    product    `indices` are the sizes of groups of consecutive values, each multiplied to one
    affine     x * `scale` + `bias`
    standardize  (x - `bias`) / `scale`, with positive scales: inputs in the user's units, as the network reads them
    layernorm  the same after (x - mean) / sqrt(variance + `epsilon`), both over the vector
    rmsnorm    x / sqrt(mean of squares + `epsilon`) * `scale`
    groupnorm  layernorm, over each of `indices[0]` runs of consecutive nodes by itself
    prelu      x above zero, x * `scale` below
    swish      x / (1 + exp(-`scale` x))
    clip       x between `scale` and `bias`
    rowrange   2 (x - min) / (max - min) - 1, with the smallest and largest node of the vector
    function   `function` of every node, by its name
    module     a module of torch's or the user's own that looks at the whole vector, `function` being its class
    """

    kind: str
    indices: tuple[int, ...] = ()
    scale: tuple[float, ...] = ()
    bias: tuple[float, ...] = ()
    epsilon: float = 0.0
    function: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisInfo:
    """Kind of one-dimensional functions that all edges of a layer share.

    kind          its name, such as bspline
    functions     the number of coefficients of an edge
    parameters    by name, as text for people
    knots         one row per source, or a single row where all sources share it; may be empty
    per_edge      every edge shifts and stretches the function for itself
    pre_steps     steps between the layer's sources and the inputs of this family alone
    edges_tensor  the output of the layer's edge graph with this family's part of every edge's value, mask included,
                  [N, sources, destinations]. Empty: the layer has no other part, or, where another family of it
                  has one, this one adds nothing
    """

    kind: str
    functions: int
    parameters: dict[str, str]
    knots: tuple[tuple[float, ...], ...]
    per_edge: bool = False
    pre_steps: tuple[NodeStep, ...] = ()
    edges_tensor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicEdge:
    """Symbolic edge phi(x) = mask * (c * function(a * x + b) + d), added to the edge's numeric part.

    source, destination  numbers of its nodes, from 0
    expression           the function in terms of x, if its name alone does not show it
    """

    source: int
    destination: int
    function: str
    a: float
    b: float
    c: float
    d: float
    mask: float
    expression: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """KAN layer, and the tensors and files with its edge values.

    pre_steps     steps on its sources
    post_steps    steps on its destinations
    mask          [sources][destinations], empty where all are 1
    bias          [destinations], empty where all are 0
    active_edges  the number of edges that can contribute: their mask is not 0
    node_tensor   the tensor of `model.onnx` that feeds the layer, [rows, *positions, n]: the graph input if the layer
                  reads it as it is, otherwise an additional graph output
    edges_file    a graph from a tensor of that name, with rows and positions as one axis [N, n], to `edges_tensor`
    edges_tensor  the edge values in that graph, [N, sources, destinations]
    name          of the module or of the library, or empty
    edge_class    as in Manifest
    """

    sources: int
    destinations: int
    bases: tuple[BasisInfo, ...]
    pre_steps: tuple[NodeStep, ...]
    post_steps: tuple[NodeStep, ...]
    mask: tuple[tuple[float, ...], ...]
    bias: tuple[float, ...]
    symbolic: tuple[SymbolicEdge, ...]
    active_edges: int
    node_tensor: str
    edges_file: str
    edges_tensor: str
    name: str = ""
    edge_class: str = ""  # empty: the model's
    positions: tuple[int, ...] = ()  # axes between the rows and the nodes, such as tokens or pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """Checkpoint file that was read; `name` is its base name."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Origin of the weights, and the facts that the files do not hold.

    family           the library
    family_reason    the reason for that family
    options_given    facts from the user, by name
    options_assumed  defaults for facts that no file holds, by name; the one that can be wrong by most comes first
    options_decided  facts that recorded outputs of the trained model decided
    alternatives     for some of both, the other values that the file would allow, in words
    """

    family: str
    family_reason: str
    dtype: str  # float64, float32, float16 or bfloat16, as stored in the checkpoint
    files: tuple[SourceFile, ...]
    options_given: dict[str, str]
    options_assumed: dict[str, str]
    options_decided: dict[str, str] = dataclasses.field(default_factory=dict)
    alternatives: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """Largest errors of one group of rows, against the float64 evaluation.

    name             the group: inside, extension, knots, far, nonfinite or single for a stack of
                     layers; a module has inside, scaled, noise, zeros and single for its rows, and
                     batches of so many rows, such as "batch of 33"
    rows             of the model; of a layer, if the group was made for layers alone
    *_max_abs        absolute, in the units of the output or the edge; of an output with a scaler, in scaled units
    *_max_rel        relative to the largest finite magnitude (of the layer, for edges) in the
                     group or inside the grid, whichever is larger
    worst_*          where the largest relative error is

    No error is above its tolerance unless a note of the manifest says why it was excused.
    """

    name: str
    rows: int
    outputs_max_abs: float
    outputs_max_rel: float
    edges_max_abs: float
    edges_max_rel: float
    worst_output: str  # index of the output, or ""
    worst_edge: str  # "(layer,source,destination)" or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityCheck:
    """Comparison with a file of recorded outputs of the trained model.

    rows       the number of rows compared
    max_abs    the largest absolute error of the exported graph's outputs
    max_rel    the largest error relative to the largest finite output
    tolerance  the relative error that was allowed
    """

    name: str
    sha256: str
    rows: int
    max_abs: float
    max_rel: float
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Verification of the graphs against the float64 evaluation of the checkpoint. Without it, an export writes
    nothing.

    *_tolerance       relative, as in Zone
    zones             in the order in which they ran
    basis             a key of `VERIFICATION_BASES`
    expected_outputs  results of the comparison with recorded outputs of the trained model
    explaining        zones of the explaining graph, if there is one: its outputs, node vectors and edges
    kernel            zones of `custom_ops.KERNEL_FILE` in place of the model's graph, and of the edge graphs by
                      SplineEdges, if they are among the files
    """

    outputs_tolerance: float
    edges_tolerance: float
    runtime: str  # name and version of what ran the graphs, and what they were held against
    zones: tuple[Zone, ...]
    basis: str = READING
    expected_outputs: tuple[ParityCheck, ...] = ()
    explaining: tuple[Zone, ...] = ()
    kernel: tuple[Zone, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Rows with known outputs. The server runs them before it reports that the version is ready.

    inputs     each row flat, in C order, whatever the shape of the tensor; several tensors follow one another
    outputs    from the float64 evaluation, in the same form
    tolerance  relative to the largest magnitude of each output, and wider than the verification's, because other
               machines sum in another order

    No rows: the model has none with finite outputs only.
    """

    inputs: tuple[tuple[float, ...], ...]
    outputs: tuple[tuple[float, ...], ...]
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Another graph of the network, with the inputs, outputs and nodes of `model.onnx`.

    rows   the batch size from which on it is made to be faster; the server measures which graph to use
    zones  its verification on the same rows, without edges
    """

    file: str
    rows: int
    zones: tuple[Zone, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Description of a model version, complete for the server.

    format            of this document
    inputs, outputs   at least one each, all with the same rows
    names             their names for people
    opset             the graphs' ONNX operator set
    layers            layers with an edge graph, in the order in which they run
    edge_class        A: an edge's value depends on its source alone; B: also on the other nodes of its row
                      (a normalisation); C: also on the other rows of the batch
    files             everything in the version directory but the manifest
    notes             sentences for people
    baseline          counts of inputs, outputs and hidden nodes on the user's data
    explanations      the graph that explains outputs
    out_of_range      a key of `shared.sections.OUT_OF_RANGE_POLICIES`
    variants          further graphs of the network
    approximation     the quantization
    optimization      `ANY` or `BASIC`; with `BASIC`, the runtime of the verification computes other numbers at a higher
                      level
    intervals         prediction intervals; the key is missing in a document without them
    certificate       certified ranges of the outputs; the key is missing in a document without them
    error_bars        reference rows of error bars; the key is missing in a document without them
    stored            the lists of numbers that are in NUMBERS_FILE; empty if `loads` was given that file
    scalers           the scaling of the inputs and outputs, which is part of the graphs
    edit              how the version was made from another one; the key is missing if it was not
    """

    format: int
    name: str
    version: int
    created: str  # RFC 3339, UTC
    exporter_version: str
    edge_class: str  # A, B or C, the largest of the layers; C is not served
    opset: int
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: tuple[LayerInfo, ...]
    source: Source
    verification: Verification
    reference: Reference
    files: tuple[FileEntry, ...]
    notes: tuple[str, ...]
    names: Names = UNNAMED
    baseline: sections.Baseline = sections.NO_BASELINE
    explanations: sections.Explanations = sections.NO_EXPLANATIONS
    out_of_range: str = sections.AS_TRAINED
    variants: tuple[Variant, ...] = ()
    approximation: sections.Approximation = sections.EXACT
    optimization: str = ANY
    intervals: sections.Intervals = dataclasses.field(default=sections.NO_INTERVALS, metadata=serialization.OPTIONAL)
    certificate: sections.CertificateInfo = dataclasses.field(
        default=sections.NO_CERTIFICATE, metadata=serialization.OPTIONAL
    )
    error_bars: sections.ErrorBars = dataclasses.field(default=sections.NO_ERROR_BARS, metadata=serialization.OPTIONAL)
    stored: tuple[serialization.Stored, ...] = ()
    scalers: sections.Scalers = dataclasses.field(default=sections.UNSCALED, metadata=serialization.OPTIONAL)
    edit: sections.Edit = dataclasses.field(default=sections.NO_EDIT, metadata=serialization.OPTIONAL)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of a row on its way through the layers; see `row_shapes`."""
        return row_shapes(
            [tensor.shape for tensor in self.inputs], self.layers, [tensor.shape for tensor in self.outputs]
        )

    @property
    def input(self) -> TensorSpec:
        """The first input; most models have one."""
        return self.inputs[0]

    @property
    def output(self) -> TensorSpec:
        """The first output; most models have one."""
        return self.outputs[0]

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of values in each of `shapes`."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def verification_basis(self) -> str:
        """The basis of the verification, a key of `VERIFICATION_BASES`."""
        return self.verification.basis

    @property
    def claim(self) -> str:
        """The basis of the verification as text, with the results for expected outputs."""
        files = [
            f"{check.rows} rows of {check.name}, largest error {check.max_rel:.1e}"
            for check in self.verification.expected_outputs
        ]
        return VERIFICATION_BASES[self.verification_basis] + (f" ({'; '.join(files)})" if files else "")

    def file(self, path: str) -> FileEntry:
        """The entry of one listed file. Raises ManifestError if it is not listed."""
        for entry in self.files:
            if entry.path == path:
                return entry
        raise ManifestError(f"{path} is not listed among the files of {self.name}", code="manifest-file-not-listed")


def row_shapes(
    inputs: Sequence[tuple[int, ...]], layers: tuple[LayerInfo, ...], result: Sequence[tuple[int, ...]]
) -> tuple[tuple[int, ...], ...]:
    """The shapes of a row of the input, (*positions, sources) of each layer, and a row of the output, such as ((1,
    8, 8), (64,), (10,)). `inputs` and `result` are the shapes of the tensors with their batch axis. Several tensors
    count as one row with all their values, such as (69,). Layer 0 is left out if its nodes are the row, or columns
    selected from it."""
    row = _row(inputs)
    nodes = [(*layer.positions, layer.sources) for layer in layers]
    if nodes and (
        nodes[0] == row
        or (len(row) == len(nodes[0]) == 1 and any(step.kind == "select" for step in layers[0].pre_steps))
    ):
        del nodes[0]
    return (row, *nodes, _row(result))


def _row(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    if len(shapes) == 1:
        return shapes[0][1:]
    return (sum(math.prod(shape[1:]) for shape in shapes),)


def arrows(shapes: tuple[tuple[int, ...], ...]) -> str:
    """The shapes as text: "1x8x8 → 64 → 10"."""
    return " → ".join("x".join(map(str, shape)) for shape in shapes)


def dumps(manifest: Manifest) -> bytes:
    """The manifest as UTF-8 JSON; `loads(dumps(m)) == m`. Non-finite numbers raise."""
    return _text(serialization.document_of(manifest))


def parts(manifest: Manifest) -> tuple[Manifest, bytes | None]:
    """A large manifest without its long lists of numbers, and these lists as the bytes of NUMBERS_FILE. The
    manifest's `files` do not list that file yet. A small manifest stays as it is, with None. Raises ManifestError
    for one that is too large even so."""
    document = serialization.document_of(manifest)
    if len(_text(document)) <= SMALL:
        return manifest, None
    bare, stored, numbers = serialization.extract_lists(document)
    size = len(_text(bare | {"stored": serialization.entries(stored)}))
    if size > SIZE_LIMIT or len(numbers) > LIMIT:
        raise ManifestError(
            f"the manifest is too large: {size} bytes and {len(numbers)} bytes of numbers, "
            f"expected at most {SIZE_LIMIT} and {LIMIT}",
            code="manifest-too-large",
            hint="export a network with fewer edges, or layers",
        )
    return serialization.build(Manifest, bare | {"stored": serialization.entries(stored)}, "manifest"), numbers


def _text(document: Any) -> bytes:
    """The document as indented JSON, with each list of numbers on one line."""
    text = json.dumps(document, indent=1, allow_nan=False)
    return NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text).encode() + b"\n"


def prepare() -> None:
    """Make the first `loads` as fast as the following ones."""
    serialization.evaluate_annotations(Manifest)


def loads(data: bytes, numbers: bytes | None = None, *, most: int = SIZE_LIMIT) -> Manifest:
    """Read a manifest from its bytes, at most `most`. With `numbers`, the bytes of NUMBERS_FILE, it has all of its
    lists. Without them, the lists that are `stored` there are empty. Raises ManifestError, which names the first
    fault."""
    document = _document(data, most)
    if numbers is not None:
        serialization.restore_lists(
            document, serialization.build(_Stored, {"stored": document.get("stored")}, "manifest").stored, numbers
        )
        document["stored"] = []
    return serialization.build(Manifest, document, "manifest")


@dataclass(frozen=True, slots=True)
class _Stored:
    """The part of a manifest that `loads` reads first."""

    stored: tuple[serialization.Stored, ...]


def heading(data: bytes) -> tuple[str, int]:
    """The name and the version, without the rest of the manifest. Raises ManifestError."""
    document = _document(data)
    name, version = document.get("name"), document.get("version")
    if not isinstance(name, str) or type(version) is not int:
        raise ManifestError("the manifest has no name and no version")
    return name, version


def _document(data: bytes, most: int = SIZE_LIMIT) -> dict[str, Any]:
    if len(data) > most:
        raise ManifestError(
            f"the manifest has {len(data)} bytes, expected at most {most}",
            code="manifest-too-large",
            hint="export the model again",
        )
    try:
        document = serialization.json_of(data)
    except ValueError as error:
        raise ManifestError(f"the manifest is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ManifestError(f"the manifest is {serialization.name_of(document)}, expected an object")
    version = document.get("format")
    if type(version) is not int or version != FORMAT:
        upgrade = "upgrade kanserve, or " if isinstance(version, int) and FORMAT < version < 2**31 else ""
        raise ManifestError(
            f"manifest has format {reprlib.repr(version)}, this program reads format {FORMAT}: "
            f"{upgrade}export the model again with `{EXPORT_AGAIN}`",
            code="manifest-format-unknown",
        )
    return document


def load(directory: Path) -> Manifest:
    """Read `directory/manifest.json`, and NUMBERS_FILE next to it if the manifest names it. Raises OSError or
    ManifestError."""
    data = safe_files.read(directory / FILE_NAME, SIZE_LIMIT)
    manifest = loads(data)
    return loads(data, safe_files.read(directory / NUMBERS_FILE, LIMIT)) if manifest.stored else manifest
