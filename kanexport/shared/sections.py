"""Optional sections of the manifest: quantization, baseline, explanations, prediction intervals, certificate, error
bars, scalers, edits, and handling of rows out of range.

Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from kanexport.shared.serialization import OPTIONAL

# Forms of a branch: int8 sums, only its weights quantized, or unchanged. INT8 and FP16_WEIGHTS are values of
# --quantize.
INT8, INT8_WEIGHTS, FP16_WEIGHTS, FLOAT32 = "int8", "int8-weights", "fp16-weights", "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """Quantized term of a layer.

    form   how the graph computes it
    error  the largest change of an output if only this term is rounded so, relative to the largest output
    first  the same for the fewest bits that were tried
    """

    layer: int
    term: int
    kind: str
    form: str
    error: float
    first: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximation:
    """Quantization of a model, and its measured effect on the outputs.

    quantize  INT8 or FP16_WEIGHTS; empty if the model is exact
    max_error  what was allowed, relative to the largest output
    rows     on which the errors were measured, and where they are from: a file's name and sha256, or made by the export
    error, median  the largest and the median difference of an output from the checkpoint's, relative to the largest
    changed  of how many rows another output is the largest; -1 where there is one output
    """

    quantize: str = ""
    max_error: float = 0.0
    rows: int = 0
    rows_from: str = ""
    rows_sha256: str = ""
    error: float = 0.0
    median: float = 0.0
    changed: int = -1
    branches: tuple[Branch, ...] = ()

    @property
    def text(self) -> str:
        """The quantization in one sentence; empty if the model is exact."""
        if not self.quantize:
            return ""
        top = f"; the predicted class changes in {self.changed} of them" if self.changed >= 0 else ""
        return (
            f"APPROXIMATE, as requested ({self.quantize}): outputs differ from those of the checkpoint by up to "
            f"{self.error:.1e} relative to the largest output, median {self.median:.1e}, on {self.rows} rows "
            f"({self.rows_from}){top}"
        )

    def notes(self) -> tuple[str, ...]:
        """Notes on the quantization; none if the model is exact."""
        if not self.quantize:
            return ()
        branches = []
        for branch in self.branches:
            alone, why = f", by itself {branch.error:.1e}" if branch.form != FLOAT32 else "", ""
            if branch.first > branch.error:
                why = f", since quantizing only this branch changes outputs by {branch.first:.1e}"
            branches.append(f"layer {branch.layer}, {branch.kind}: {branch.form}{alone}{why}")
        return (self.text, *branches, EDGES_NOTE)


EDGES_NOTE = (
    "edges, curves and explanations use the rounded coefficients and float32: they describe the served functions, not "
    "those of the checkpoint; if a layer sums int8 values, its output differs from the sum of its edges by the "
    "rounding of their values"
)
EXACT = Approximation()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBaseline:
    """Distribution of the n nodes that feed a layer, over rows of user data and all positions.

    cells      the bounds of the cells in which their values are counted, ascending: a row for each node, or one for
               all; the knots of its grid where a node is a source with knots, otherwise equal parts of the range
    counts     [n][cells + 2]: the number of values below the first bound, in each cell, and above the last
    nonfinite  [n]: the number of values that are NaN or infinite, and in no count
    mean, std  [n], of the finite values; std divides by their number
    """

    cells: tuple[tuple[float, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    nonfinite: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Baseline distributions on rows of user data, such as the training data, without the rows. No rows: the user gave
    none.

    name, sha256  of the file
    mean          of each number of a row, flat in C order
    layers        one for each layer
    outputs       one for each output of the model
    """

    name: str = ""
    sha256: str = ""
    rows: int = 0
    mean: tuple[float, ...] = ()
    layers: tuple[NodeBaseline, ...] = ()
    outputs: tuple[NodeBaseline, ...] = ()


NO_BASELINE = Baseline()


EXPLAIN_FILE = "explain.onnx"
OUTPUT, NODES, EDGES, CONTRIBUTIONS = "output", "nodes", "edges", "contributions"  # what a tensor holds


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedTensor:
    """Output of the explaining graph. `shape` starts with -1 for the rows. `holds` has one of these values:

    output         an output of the model, as `model.onnx` gives it
    nodes          the inputs of the layer, [rows, *positions, n]
    edges          the value of every edge of the layer, [rows, *positions, sources, destinations]; over the sources
                   they add up, with the layer's bias, to the input of the steps that make the next layer's nodes
    contributions  the contribution of each input to each output, [rows, inputs, outputs]: over the inputs they add
                   up, with the base, to the output
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    holds: str
    layer: int  # -1 for an output, and for contributions


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanations:
    """Explaining graph of a model. It runs in any onnxruntime, without kanserve.

    file  its name next to `model.onnx`, whose inputs it takes; empty if the export was not asked for one
    base  the base value of contributions: the output for the mean of the baseline's rows; empty without one
    """

    file: str = ""
    tensors: tuple[ExplainedTensor, ...] = ()
    base: tuple[float, ...] = ()


NO_EXPLANATIONS = Explanations()


# Methods of prediction intervals: half widths, half widths by predicted value, and sets of classes.
ABSOLUTE, NORMALIZED, LAC = "absolute", "normalized", "lac"
LOGITS, PROBABILITIES = "logits", "probabilities"  # outputs of a classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputInterval:
    """Interval of one number of the output.

    quantile  half width of the interval; with NORMALIZED its ratio to the spread
    points    predicted values, ascending; empty with ABSOLUTE
    spreads   mean absolute residual at these points, linear in between and constant outside
    width     mean width of the interval on the calibration rows
    """

    quantile: float
    points: tuple[float, ...]
    spreads: tuple[float, ...]
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Prediction intervals by split conformal prediction. No method: the export had no calibration rows with targets.

    method       ABSOLUTE, NORMALIZED or LAC; empty for none
    coverage     requested share of rows whose target is in the interval, or in the set, between 0 and 1
    name, sha256 of the calibration file
    rows         number of its rows
    fitted       number of these rows that fit the spreads and give no quantile
    outputs      one for each number of the output; empty with LAC
    scores       with LAC, the meaning of the outputs: LOGITS or PROBABILITIES
    threshold    with LAC, largest 1 - p of a class in the set
    size         with LAC, mean number of classes in the set on the calibration rows
    checked      coverage of the second half of the file with the quantiles of its first half, least of all outputs
    low, high    smallest and largest value of each number of a row in the file, flat in C order; empty in a version of
                 an exporter that did not store them
    """

    method: str = ""
    coverage: float = 0.0
    name: str = ""
    sha256: str = ""
    rows: int = 0
    fitted: int = 0
    outputs: tuple[OutputInterval, ...] = ()
    scores: str = ""
    threshold: float = 0.0
    size: float = 0.0
    checked: float = 0.0
    low: tuple[float, ...] = field(default=(), metadata=OPTIONAL)
    high: tuple[float, ...] = field(default=(), metadata=OPTIONAL)

    @property
    def text(self) -> str:
        """The intervals in one sentence; empty for none."""
        if not self.method:
            return ""
        what = "prediction sets" if self.method == LAC else f"prediction intervals, {self.method} residuals"
        return f"{what}: {self.coverage * 100:g}% coverage, calibrated on {self.rows} rows of {self.name}"


NO_INTERVALS = Intervals()
EXCHANGEABLE = (
    "the coverage holds on average over rows that are exchangeable with the calibration rows, such as new rows of the "
    "same source; it does not hold for each row, nor after drift"
)


INCREASING, DECREASING, NEITHER, UNDECIDED = "increasing", "decreasing", "neither", "undecided"
DIRECTIONS = (UNDECIDED, INCREASING, DECREASING, NEITHER)  # by their number in a manifest
PAIRS = 2**16  # of an input and an output, in one certificate at most
POINT_PAIRS = 64  # of an input and an output, up to which a certificate has rows
GRID_BOX = "grid"  # name of the box that is the training grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Evidence for the direction NEITHER of an output in an input. Each step is a row [n] and, as its last number, the
    value of the input in a second row, which has the other numbers of the first one.

    rises, falls  [n + 1]: a step at which the output rises, and one at which it falls
    """

    input: int
    output: int
    rises: tuple[float, ...]
    falls: tuple[float, ...]

    def pair(self, step: tuple[float, ...]) -> tuple[list[float], list[float]]:
        """The two rows of a step."""
        *row, to = step
        return row, [to if at == self.input else value for at, value in enumerate(row)]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateInfo:
    """Certificate of a model with n inputs and m outputs over a box of inputs. No method: the export made none.

    method       how the exporter computed it; empty for none
    box          GRID_BOX, or the name of the file whose rows span the box
    sha256       of that file; empty for the grid
    low, high    [n]: the box, in the units of the inputs
    budget       requested time in seconds, and `seconds`: the time that the exporter used
    boxes        the number of boxes that cover the box
    output_low, output_high  [m]: no row in the box has an output outside of this range
    found_low, found_high    [m]: the most extreme outputs that the search found
    slack        [m]: largest difference between an output of the float32 graph and that of the network
    directions   [n][m]: positions in DIRECTIONS
    lipschitz    [n][m]: an output changes by at most this per unit of the input
    assumptions  conditions under which the certificate holds, one sentence each
    range_check  True if FLAG and REJECT check the box, and not the range of the training
    at_low, at_high  [m][n]: rows with the found outputs; empty above POINT_PAIRS
    witnesses    one for each pair with the direction NEITHER; empty above POINT_PAIRS
    """

    method: str = ""
    box: str = ""
    sha256: str = ""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    budget: float = 0.0
    seconds: float = 0.0
    boxes: int = 0
    output_low: tuple[float, ...] = ()
    output_high: tuple[float, ...] = ()
    found_low: tuple[float, ...] = ()
    found_high: tuple[float, ...] = ()
    slack: tuple[float, ...] = ()
    directions: tuple[tuple[int, ...], ...] = ()
    lipschitz: tuple[tuple[float, ...], ...] = ()
    assumptions: tuple[str, ...] = ()
    range_check: bool = False
    at_low: tuple[tuple[float, ...], ...] = field(default=(), metadata=OPTIONAL)
    at_high: tuple[tuple[float, ...], ...] = field(default=(), metadata=OPTIONAL)
    witnesses: tuple[Witness, ...] = field(default=(), metadata=OPTIONAL)

    def __bool__(self) -> bool:
        return bool(self.method)

    def direction(self, source: int, output: int) -> str:
        """The direction of an output in an input, one of DIRECTIONS."""
        return DIRECTIONS[self.directions[source][output]]

    @property
    def text(self) -> str:
        """The certificate in one sentence; empty for none."""
        if not self.method:
            return ""
        where = "the training grid" if self.box == GRID_BOX else f"the box of {self.box}"
        count = len(self.output_low)
        checked = "; rows outside of the box are out of range" if self.range_check else ""
        return f"certified over {where}: ranges of {count} output{'s' * (count != 1)}, by {self.method}{checked}"


NO_CERTIFICATE = CertificateInfo()


ANCHORS = 512  # rows of error bars that a version stores at most
ANCHOR_NUMBERS = 2**18  # numbers of these rows, with their errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBars:
    """Error bars of m outputs: reference rows, from which the certified Lipschitz bounds carry errors to other rows.
    No rows: the export made none. `kanexport.shared.error_bars` has the formula.

    name, sha256  of the calibration file
    rows          number of its rows, and `outside`: of those that the certified box does not contain
    factor        how much steeper than the Lipschitz bounds of the network the true function may be
    x             [k][n]: the stored rows, in the units of the inputs
    errors        [k][m]: largest distance of the true function from the network at these rows, by the assumption
    median        [m]: median bar of the checked rows, each from the other ones
    checked       rows of the file that were compared with one another
    missed        share of the checked rows with an error above the bar that the others give
    needed        smallest factor with which the checked rows agree; -1 if no factor is large enough
    """

    name: str = ""
    sha256: str = ""
    rows: int = 0
    outside: int = 0
    factor: float = 0.0
    x: tuple[tuple[float, ...], ...] = ()
    errors: tuple[tuple[float, ...], ...] = ()
    median: tuple[float, ...] = ()
    checked: int = 0
    missed: float = 0.0
    needed: float = 0.0

    def __bool__(self) -> bool:
        return self.rows > 0

    @property
    def assumption(self) -> str:
        """The assumption under which no error exceeds its bar, in one sentence; empty for none."""
        if not self:
            return ""
        steep = "no steeper than" if self.factor == 1 else f"at most {self.factor:g} times as steep as"
        return f"the true function is {steep} the Lipschitz bounds of the network, and the targets have no noise"

    @property
    def basis(self) -> str:
        """The rows and the factor of the bars, in one sentence."""
        return f"error bars use rows of {self.name} with the factor {self.factor:g}"

    @property
    def contradicted(self) -> bool:
        """Whether the checked rows contradict the assumption."""
        return self.needed < 0 or self.needed > self.factor

    @property
    def contradiction(self) -> str:
        """How the checked rows contradict the assumption, in one sentence; empty if they do not."""
        if not self.contradicted:
            return ""
        needed = "no factor is large enough" if self.needed < 0 else f"they need the factor {self.needed:.3g}"
        return (
            f"rows of {self.name} contradict the assumption: {needed}, and the error of {self.missed:.1%} of "
            f"{self.checked} checked rows exceeds the bar of the others"
        )

    @property
    def text(self) -> str:
        """The error bars in one sentence; empty for none."""
        if not self:
            return ""
        return f"{self.basis}; they assume that {self.assumption}"


NO_ERROR_BARS = ErrorBars()


AS_TRAINED, FLAG, REJECT, CLAMP = "as-trained", "flag", "reject", "clamp"
OUT_OF_RANGE_HELP = (
    "handling of rows with an input out of the range of the first layer: as-trained computes them as the trained model "
    "does, flag also counts them, reject rejects them, clamp clamps the input to the grid in the graph "
    "(default: as-trained)"
)
OUT_OF_RANGE_POLICIES: Mapping[str, str] = MappingProxyType(
    {
        AS_TRAINED: "rows out of range are computed as the trained model computes them",
        FLAG: "rows out of range are computed, counted, and reported with the response",
        REJECT: "requests with a row out of range are rejected",
        CLAMP: "the graph clamps inputs to the grid: a row out of grid gets the output of the nearest row in the grid",
    }
)


STANDARD, MIN_MAX = "standard", "min-max"
SHOWN = 4  # columns of a scaler that its text lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaler:
    """Scaling of the columns of the inputs or of the outputs: scaled = (value - offset) / scale.

    kind          form of the file: STANDARD or MIN_MAX; empty without a scaler
    offset        one for each column, in the user's units: the mean, or the value that becomes 0
    scale         one for each column, positive, in the user's units
    range         of MIN_MAX: the two values that the least and the greatest value become
    name, sha256  of the file
    """

    kind: str = ""
    offset: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    range: tuple[float, ...] = ()
    name: str = ""
    sha256: str = ""

    def __bool__(self) -> bool:
        return bool(self.kind)

    def column(self, at: int) -> str:
        """The numbers of one column as text, such as "mean 5, scale 2" or "0 to 10 become 0 to 1"."""
        if self.kind == STANDARD:
            return f"mean {self.offset[at]:.9g}, scale {self.scale[at]:.9g}"
        low, high = (f"{self.offset[at] + end * self.scale[at]:.9g}" for end in self.range)
        return f"{low} to {high} become {self.range[0]:.6g} to {self.range[1]:.6g}"

    def text(self, name: Callable[[int], str]) -> str:
        """The scaler in one line. `name`: of a column."""
        listed = "; ".join(f"{name(at)}: {self.column(at)}" for at in range(min(len(self.scale), SHOWN)))
        more = f"; and {len(self.scale) - SHOWN} more" if len(self.scale) > SHOWN else ""
        return f"{self.kind} ({self.name}): {listed}{more}"


NO_SCALER = Scaler()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalers:
    """Scalers of a model. Its graphs apply them, so that inputs and outputs are in the user's units."""

    inputs: Scaler = NO_SCALER
    outputs: Scaler = NO_SCALER

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)


UNSCALED = Scalers()


EXACT_FORM, FITTED_FORM = "exact", "fitted"
EDIT_BYTES = 2**20  # of a file of edits
SHOWN_EDGES = 3  # of an edit in its sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedEdge:
    """Edge that an edit changed.

    operation  the operation and its values, such as "clamp -1:2"
    form       EXACT_FORM, or FITTED_FORM: the basis cannot express the requested curve, and has the nearest one
    error      of FITTED_FORM: largest difference from the requested curve; of "monotone" from the curve before
    """

    layer: int
    source: int
    destination: int
    operation: str
    form: str = EXACT_FORM
    error: float = 0.0

    @property
    def text(self) -> str:
        """Such as "edge 0:2:1 clamp -1:2"."""
        return f"edge {self.layer}:{self.source}:{self.destination} {self.operation}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Edit that made a version from another version of the model. Version 0: the version is not an edit.

    parent_version  the version that was edited
    parent_sha256   of its manifest.json, hexadecimal
    author          name of the person or token
    released        whether a server may serve the version by default, without a choice of an operator
    rows, rows_from  rows on which both versions were compared, and where they are from
    largest, mean   of each output: largest and mean absolute change on these rows
    changed         on how many rows another output is the largest; -1 if there is one output
    """

    parent_version: int = 0
    parent_sha256: str = ""
    author: str = ""
    released: bool = False
    edges: tuple[EditedEdge, ...] = ()
    rows: int = 0
    rows_from: str = ""
    largest: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    changed: int = -1

    def __bool__(self) -> bool:
        return self.parent_version > 0

    @property
    def text(self) -> str:
        """The edit in one sentence; empty for none."""
        if not self:
            return ""
        listed = ", ".join(edge.text for edge in self.edges[:SHOWN_EDGES])
        more = f" and {len(self.edges) - SHOWN_EDGES} more" if len(self.edges) > SHOWN_EDGES else ""
        by = f" by {self.author}" if self.author else ""
        return f"edit of version {self.parent_version}{by}: {listed}{more}"

    @property
    def difference(self) -> str:
        """The change of the outputs in one sentence; empty for none."""
        if not self.rows:
            return ""
        flips = f", and the largest output is another one on {self.changed} rows" if self.changed >= 0 else ""
        return (
            f"outputs change by up to {max(self.largest, default=0.0):.3g}, on average by "
            f"{max(self.mean, default=0.0):.3g}, on {self.rows} rows ({self.rows_from}){flips}"
        )


NO_EDIT = Edit()
