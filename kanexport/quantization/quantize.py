"""Quantized graphs of a network, and their measured errors.

The exporter tests each branch by itself, and quantizes it as far as its share of the error allows. The loss differs
between the base branch and the splines of efficient-kan and pykan, between layers, and between models. Rounding errors
of branches are independent: with n branches, each may have 1 / sqrt(n) of the error of the whole model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bundle import baseline
from kanexport.bundle.baseline import Rows
from kanexport.errors import (
    OptionError,
    VerificationFailed,
    arguments_conflict,
    internal_check_failed,
    needs,
    rows_not_finite,
)
from kanexport.graph import precision
from kanexport.ir import scaling
from kanexport.ir.model import BasisTerm, Kan, Layer, Term
from kanexport.ir.quantized_basis import Stepped, stepped
from kanexport.lowering import passes
from kanexport.lowering.lower import INPUT, OUTPUT, Lowered
from kanexport.shared.manifest import Reference, TensorSpec
from kanexport.shared.naming import Names
from kanexport.shared.sections import FLOAT32, FP16_WEIGHTS, INT8, INT8_WEIGHTS, Approximation, Branch
from kanexport.verify import float64_reference, graph_runner, test_points, verify
from kanexport.verify.tolerances import SLACK
from kanexport.verify.verify import Proof

Array = npt.NDArray[np.float64]

CALIBRATION = "--calibration"
GENERATED_ZONES = ("inside", "extension", "knots")  # zones, where the user gave no rows
ROWS_LIMIT = 4096  # rows on which the whole is measured
TRIED = 256  # rows on which branches are tried
AT_ONCE, AT_ONCE_EXACT = 1024, 256  # rows of a run of the graph, and of the float64 reference
AGREE = 0.25  # of the rows inside, that must: steps are rare, and of a row with thousands of sources one is on another
STORED = {INT8: precision.BYTES, INT8_WEIGHTS: precision.BYTES, FP16_WEIGHTS: precision.HALF}
Forms = Mapping[tuple[int, int], str]  # by layer and term; FLOAT32 where there is none
METHODS = (FP16_WEIGHTS, INT8)  # values of --quantize
# The largest error, relative to the largest output, unless the user says otherwise. float16 rounds a weight by up to
# 5e-4 of itself; goldens differ by 9e-5 to 1.3e-3 then, on rows made for them. A byte rounds it by up to 4e-3 of the
# largest of its column; goldens differ by 3e-3 to 2e-2. Beyond these bounds more is lost than these bits usually cost.
MAX_ERROR = {FP16_WEIGHTS: 2e-3, INT8: 5e-2}


@dataclass(frozen=True, slots=True)
class QuantizationOptions:
    """Options of quantization.

    quantize   one of `METHODS`, or empty for an exact export
    rows       of the user's data, on which errors are measured
    max_error  relative; None for the default of the method
    """

    quantize: str = ""
    rows: Rows | None = None
    max_error: float | None = None

    @property
    def bound(self) -> float:
        """The largest accepted error."""
        return MAX_ERROR[self.quantize] if self.max_error is None else self.max_error

    def check(self, dtype: str, *, explain: bool) -> None:
        """Raises OptionError for invalid values, or for options that cannot be combined."""
        if not self.quantize:
            for flag, value, other in (
                ("--calibration", self.rows, "--quantize or --coverage"),
                ("--max-error", self.max_error, "--quantize"),
            ):
                if value is not None:
                    raise needs(flag, other)
            return
        if self.quantize not in METHODS:
            raise OptionError(
                f"--quantize is {self.quantize[:40]!r}, expected {' or '.join(METHODS)}",
                code="option-value-unknown",
                hint=f"pass --quantize {' or '.join(METHODS)}",
            )
        if dtype != "float32":
            raise arguments_conflict(
                f"--quantize cannot be combined with --dtype {dtype}: a quantized graph computes in float32"
            )
        if explain:
            raise OptionError(
                "--quantize cannot be combined with --explain: the contributions in explain.onnx add up to exact "
                "outputs",
                code="arguments-conflict",
                hint="export the exact model with --explain as another version",
            )
        if not 0 < self.bound < 1:
            raise OptionError(
                f"--max-error is {self.bound}, expected a number between 0 and 1",
                code="option-out-of-range",
                hint="pass a number between 0 and 1, such as --max-error 0.01",
            )


NOTHING = QuantizationOptions()


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedNetwork:
    """Network with the forms of its branches: the one that is served, the one for the curves, and the `rows` that
    selected the forms."""

    exact: Kan
    served: Kan
    curves: Kan
    branches: tuple[Branch, ...]
    forms: Forms
    rows: Array

    def like(self, kan: Kan) -> tuple[Kan, Kan]:
        """Another network of the same layers in the same forms: the one that is served, and the one for the curves."""
        network = served(kan, self.forms)
        return network, curves(network)

    def verified(
        self, lowered: Lowered, options: QuantizationOptions, tolerance: float, advance: Callable[[int, int], None]
    ) -> tuple[Proof, Approximation]:
        """Raises VerificationFailed and InvalidKan. `tolerance`: between graphs and `served`, relative."""
        approximation = self._measured(lowered, options)
        return self.proof(lowered, options, tolerance, advance), approximation

    def proof(
        self, lowered: Lowered, options: QuantizationOptions, tolerance: float, advance: Callable[[int, int], None]
    ) -> Proof:
        """The verification without the measurement of the approximation, as in `verified`."""
        reference = _meaning(self.served, lowered, tolerance, options.bound)
        try:
            proof = verify.verify(self.exact, lowered, "float32", tolerance=options.bound, advance=advance)
        except VerificationFailed as error:
            raise VerificationFailed(
                f"{error.message}; {_worst(self.branches)}", code=error.code, hint=_hint(options)
            ) from error
        return dataclasses.replace(proof, reference=reference)

    def _measured(self, lowered: Lowered, options: QuantizationOptions) -> Approximation:
        """The error of the outputs of the graph on the rows, compared with the checkpoint. Raises VerificationFailed if
        it exceeds the limit, or if no branch is quantized."""
        x, branches = self.rows, self.branches
        if not any(branch.form != FLOAT32 or branch.first for branch in branches):
            raise VerificationFailed(
                "nothing to quantize: symbolic edges and wavelets stay in float32",
                code="nothing-to-quantize",
                hint="export without --quantize",
            )
        if all(branch.form == FLOAT32 for branch in branches):
            raise VerificationFailed(
                f"no branch can be quantized within --max-error {options.bound:g}: {_worst(branches)}",
                code="quantization-error-too-large",
                hint=_hint(options),
            )
        outputs = scaling.in_network_units(self.exact, graph_outputs(lowered, x))
        measured = errors(network_outputs(self.exact, x), outputs)
        if not measured.largest <= options.bound:
            raise VerificationFailed(
                f"the outputs of the quantized graph are off by {measured.largest:.2e} of the largest output on "
                f"{len(x)} rows, more than --max-error {options.bound:g}; {_worst(branches)}",
                code="quantization-error-too-large",
                hint=_hint(options),
            )
        return Approximation(
            quantize=options.quantize,
            max_error=options.bound,
            rows=len(x),
            rows_from="generated by the exporter" if options.rows is None else options.rows.name,
            rows_sha256="" if options.rows is None else options.rows.sha256,
            error=measured.largest,
            median=measured.median,
            changed=measured.changed,
            branches=branches,
        )


def rounded(kan: Kan, options: QuantizationOptions, inputs: tuple[TensorSpec, ...], names: Names) -> QuantizedNetwork:
    """Raises OptionError if the rows do not fit the model, and InvalidKan for a weight that is too large."""
    x = rows(kan, options, inputs, names)
    branches = choose(kan, options, x)
    chosen = {(branch.layer, branch.term): branch.form for branch in branches}
    network = served(kan, chosen)
    return QuantizedNetwork(kan, network, curves(network), branches, chosen, x)


def rows(kan: Kan, options: QuantizationOptions, inputs: tuple[TensorSpec, ...], names: Names) -> Array:
    """[B, inputs]: the rows of the user as float32, with an even selection of many; otherwise rows in the grid, on
    its knots and next to it. Raises OptionError."""
    if options.rows is None:
        size = max(map(test_points.basis_size, kan.layers))
        zones = test_points.zone_rows(kan.layers[0], kan.n_inputs, 0, size=size)
        return np.concatenate([zones[name] for name in GENERATED_ZONES])
    x = baseline.fitting(options.rows, inputs, names, CALIBRATION)
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), ROWS_LIMIT)).round().astype(int))]
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        at, column = (int(v) for v in bad[0])
        raise rows_not_finite(
            f"{CALIBRATION} {options.rows.name} has {x[at, column]} in column {column} of row {at}, expected finite "
            "numbers"
        )
    return np.asarray(x.astype(np.float32), dtype=np.float64)


def graph_outputs(lowered: Lowered, x: Array) -> Array:
    """[B, O]: the outputs of the serving graph."""
    session = graph_runner.session(lowered.model, lowered.weights)
    parts = (x[at : at + AT_ONCE].astype(np.float32) for at in range(0, len(x), AT_ONCE))
    return np.concatenate([graph_runner.run(session, {INPUT: part})[OUTPUT] for part in parts])


def _meaning(served: Kan, lowered: Lowered, tolerance: float, bound: float) -> Reference:
    """Rows in the grid with outputs as the rounded numbers give them, for the load check of the server. Raises
    VerificationFailed if there are too few."""
    layer = served.layers[0]
    rows = test_points.zone_rows(layer, served.n_inputs, 0, size=max(map(test_points.basis_size, served.layers)))
    x = rows["inside"]
    meant = network_outputs(served, x)
    with np.errstate(invalid="ignore"):
        outputs = scaling.in_network_units(served, graph_outputs(lowered, x))
        differences = np.abs(outputs - meant).max(axis=1) / (np.abs(meant[np.isfinite(meant)]).max(initial=0) or 1)
    fine = np.isfinite(meant).all(axis=1)
    agree = fine & (differences <= tolerance * SLACK)
    if np.count_nonzero(agree) < AGREE * np.count_nonzero(fine):
        raise internal_check_failed(
            "internal check failed: the quantized graph matches its float64 reference on only "
            f"{np.count_nonzero(agree)} of {len(x)} rows (tolerance {tolerance * SLACK:.0e})"
        )
    reference = verify.reference(served, lowered, x[agree], tolerance)
    # Elsewhere a sum in another order may put a value on the other side of a step, as it does here on some rows.
    steps = min(SLACK * float(differences[fine].max(initial=0)), bound)
    return dataclasses.replace(reference, tolerance=max(reference.tolerance, steps))


def _worst(branches: tuple[Branch, ...]) -> str:
    worst = max(branches, key=lambda branch: branch.error or branch.first)
    error = worst.error or worst.first
    return (
        f"the worst branch is {worst.kind} of layer {worst.layer}, "
        f"{'without bound' if not math.isfinite(error) else f'{error:.1e}'} by itself"
    )


def _hint(options: QuantizationOptions) -> str:
    return f"nothing was written; set a larger --max-error, or export without --quantize {options.quantize}"


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of outputs, relative to the largest output.

    largest, median  over the rows
    changed          the number of rows in which another output is the largest, -1 for one output
    """

    largest: float
    median: float
    changed: int


def errors(expected: Array, outputs: Array) -> Errors:
    """[B, O] each; rows that are finite on only one side differ without bound."""
    fine = np.isfinite(expected).all(axis=1)
    expected, outputs = expected[fine], outputs[fine]
    if not expected.size:
        return Errors(math.inf, math.inf, -1)
    with np.errstate(invalid="ignore"):
        differences = np.nan_to_num(np.abs(outputs - expected), nan=np.inf)
    scale = float(np.abs(expected).max())
    relative = differences / scale if scale else np.where(differences > 0, np.inf, 0.0)
    top = int(np.count_nonzero(expected.argmax(axis=1) != outputs.argmax(axis=1))) if expected.shape[1] > 1 else -1
    return Errors(float(relative.max()), float(np.median(relative)), top)


def network_outputs(kan: Kan, x: Array) -> Array:
    """[B, O] in float64, in the network's units, in chunks of rows."""
    parts = [float64_reference.evaluate(kan, x[at : at + AT_ONCE_EXACT]).y for at in range(0, len(x), AT_ONCE_EXACT)]
    return scaling.in_network_units(kan, np.concatenate(parts))


def choose(kan: Kan, options: QuantizationOptions, x: Array) -> tuple[Branch, ...]:
    """Every live branch, with its form; `x` [B, inputs]: rows on which the errors are measured."""
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), TRIED)).round().astype(int))]
    exact = network_outputs(kan, x)
    known = {
        (at, index): possible(layer, term, options.quantize)
        for at, layer in enumerate(kan.layers)
        for index, term in enumerate(layer.terms)
    }
    share = options.bound / math.sqrt(max(1, sum(len(forms) > 1 for forms in known.values())))
    branches = []
    for (at, index), forms in known.items():
        tried: dict[str, float] = {}
        for form in forms:
            alone = served(kan, {(at, index): form})
            tried[form] = errors(exact, network_outputs(alone, x)).largest if form != FLOAT32 else 0.0
            if tried[form] <= share:
                break
        first, last = (
            min(error, 1e300) for error in (next(iter(tried.values())), tried[form])
        )  # finite, for the manifest
        kind = kan.layers[at].terms[index].kind
        branches.append(Branch(layer=at, term=index, kind=kind, form=form, error=last, first=first))
    return tuple(branches)


def possible(layer: Layer, term: Term, quantize: str) -> tuple[str, ...]:
    """The forms that a branch may have for a method of quantization, the smallest first."""
    if term not in passes.live(layer).terms or not isinstance(term, BasisTerm):
        return (FLOAT32,)  # functions that every edge shifts for itself are numbers of three kinds; they stay
    if quantize == FP16_WEIGHTS:
        return (FP16_WEIGHTS, FLOAT32)
    fits = layer.sources * term.functions <= precision.DEPTH
    sums = (INT8,) if fits and stepped(term.basis, layer.sources, _room(layer, term)) else ()
    halves = (FP16_WEIGHTS,) if np.abs(passes.coefficients(layer, term)).max() <= precision.LARGEST_HALF else ()
    return (*sums, INT8_WEIGHTS, *halves, FLOAT32)


def served(kan: Kan, forms: Forms) -> Kan:
    """The network that the graph computes: with rounded coefficients, and quantized bases for sums of int8 values."""
    layers = []
    for at, layer in enumerate(kan.layers):
        terms = [_term(layer, term, forms.get((at, index), FLOAT32)) for index, term in enumerate(layer.terms)]
        layers.append(dataclasses.replace(layer, terms=tuple(terms)))
    return dataclasses.replace(kan, layers=tuple(layers))


def curves(served: Kan) -> Kan:
    """The same coefficients with exact bases: the functions whose edge values are reported."""
    layers = []
    for layer in served.layers:
        terms = [
            dataclasses.replace(term, basis=term.basis.basis)
            if isinstance(term, BasisTerm) and isinstance(term.basis, Stepped)
            else term
            for term in layer.terms
        ]
        layers.append(dataclasses.replace(layer, terms=tuple(terms)))
    return dataclasses.replace(served, layers=tuple(layers))


def _term(layer: Layer, term: Term, form: str) -> Term:
    if form == FLOAT32 or not isinstance(term, BasisTerm):
        return term
    how = STORED[form]
    mask = layer.mask[:, :, None]
    rounded_values = precision.rounded(passes.coefficients(layer, term), how)
    with np.errstate(divide="ignore", invalid="ignore"):
        coef = np.where(mask == 0, term.coef, rounded_values / mask)
    basis = stepped(term.basis, layer.sources, _room(layer, term)) if form == INT8 else None
    return dataclasses.replace(term, coef=coef, stored=how, basis=basis or term.basis)


def _room(layer: Layer, term: BasisTerm) -> int:
    """The size limit of a table in bytes: half of the size of the coefficients; for small layers a page."""
    return max(term.functions * layer.mask.size // 2, 32768)
