"""Quantized graphs of a network, and their measured errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bundle import baseline
from kanexport.bundle.baseline import FORMS
from kanexport.contract.manifest import Reference, TensorSpec
from kanexport.contract.naming import Names
from kanexport.contract.sections import FLOAT32, Approximation, Branch
from kanexport.errors import OptionError, VerificationFailed
from kanexport.ir.model import Kan
from kanexport.lowering.lower import INPUT, OUTPUT, Lowered
from kanexport.quantization import plan
from kanexport.quantization.options import QuantizationOptions
from kanexport.quantization.plan import Forms
from kanexport.verify import graph_runner, test_points, verify
from kanexport.verify.tolerances import SLACK
from kanexport.verify.verify import Proof

Array = npt.NDArray[np.float64]

CALIBRATION = "--calibration"
GENERATED_ZONES = ("inside", "extension", "knots")  # zones, where the user gave no rows
ROWS_LIMIT = 4096  # rows on which the whole is measured


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedNetwork:
    """Network with the forms of its branches: the one that is served, the one whose curves are shown, and the `rows`
    that chose the forms."""

    exact: Kan
    served: Kan
    curves: Kan
    branches: tuple[Branch, ...]
    forms: Forms
    rows: Array

    def like(self, kan: Kan) -> tuple[Kan, Kan]:
        """Another network of the same layers in the same forms: what is served, and whose curves are told."""
        served = plan.served(kan, self.forms)
        return served, plan.curves(served)

    def verified(
        self, lowered: Lowered, options: QuantizationOptions, tolerance: float, advance: Callable[[int, int], None]
    ) -> tuple[Proof, Approximation]:
        """Raises VerificationFailed and InvalidKan."""
        approximation = measure(self.exact, lowered, self.branches, options, self.rows)
        return verify_quantized(
            self.exact, self.served, lowered, self.branches, options, tolerance, advance
        ), approximation


def rounded(kan: Kan, options: QuantizationOptions, inputs: tuple[TensorSpec, ...], names: Names) -> QuantizedNetwork:
    """Raises OptionError where the rows are none of the model's, and InvalidKan where a weight is too large."""
    x = rows(kan, options, inputs, names)
    branches = plan.choose(kan, options, x)
    chosen = {(branch.layer, branch.term): branch.form for branch in branches}
    served = plan.served(kan, chosen)
    return QuantizedNetwork(kan, served, plan.curves(served), branches, chosen, x)


def rows(kan: Kan, options: QuantizationOptions, inputs: tuple[TensorSpec, ...], names: Names) -> Array:
    """[B, inputs]: the user's, of many evenly chosen ones, as float32 has them; else rows inside the grid, on its knots
    and beside it. Raises OptionError."""
    if options.rows is None:
        size = max(map(test_points.basis_size, kan.layers))
        zones = test_points.zone_rows(kan.layers[0], kan.n_inputs, 0, size=size)
        return np.concatenate([zones[name] for name in GENERATED_ZONES])
    x = baseline.fitting(options.rows, inputs, names, CALIBRATION)
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), ROWS_LIMIT)).round().astype(int))]
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        at, column = (int(v) for v in bad[0])
        raise OptionError(
            f"{CALIBRATION} {options.rows.name} has {x[at, column]} in column {column} of row {at}, expected numbers: "
            "errors cannot be measured there",
            hint=FORMS,
        )
    return np.asarray(x.astype(np.float32), dtype=np.float64)


AGREE = 0.25  # of the rows inside, that must: steps are rare, and of a row with thousands of sources one is on another
AT_ONCE = 1024
HINT = "nothing was written; --max-error sets the bound, and without {flag} nothing is approximate"


def verify_quantized(
    exact: Kan,
    served: Kan,
    lowered: Lowered,
    branches: tuple[Branch, ...],
    options: QuantizationOptions,
    tolerance: float,
    advance: Callable[[int, int], None],
) -> Proof:
    """Verify the quantized graphs. Raises VerificationFailed and InvalidKan.

    exact      the network as it was read
    served     the network that the graphs `lowered` mean
    tolerance  between graphs and `served`, relative
    """
    reference = _meaning(served, lowered, tolerance, options.bound)
    try:
        proof = verify.verify(exact, lowered, "float32", tolerance=options.bound, advance=advance)
    except VerificationFailed as error:
        raise VerificationFailed(f"{error.message}; {_worst(branches)}", hint=_hint(options)) from error
    return dataclasses.replace(proof, reference=reference)


def measure(
    exact: Kan, lowered: Lowered, branches: tuple[Branch, ...], options: QuantizationOptions, x: Array
) -> Approximation:
    """The error of the graph's outputs on rows x [B, inputs], against the checkpoint's. Raises VerificationFailed if it
    is larger than allowed, or no branch is quantized."""
    if not any(branch.form != FLOAT32 or branch.first for branch in branches):
        raise VerificationFailed(
            "the network has nothing to quantize: symbolic edges, and functions that every edge shifts and "
            "stretches for itself, stay in float32",
            hint="nothing was written",
        )
    if all(branch.form == FLOAT32 for branch in branches):
        raise VerificationFailed(
            f"no branch can be quantized within --max-error {options.bound:g}: {_worst(branches)}", hint=_hint(options)
        )
    errors = plan.errors(plan.network_outputs(exact, x), graph_outputs(lowered, x))
    if not errors.largest <= options.bound:
        raise VerificationFailed(
            f"outputs of the quantized graph differ from the checkpoint's by {errors.largest:.2e} of the largest on "
            f"{len(x)} rows, more than --max-error {options.bound:g}; {_worst(branches)}",
            hint=_hint(options),
        )
    return Approximation(
        quantize=options.quantize,
        max_error=options.bound,
        rows=len(x),
        rows_from="made for the export" if options.rows is None else options.rows.name,
        rows_sha256="" if options.rows is None else options.rows.sha256,
        error=errors.largest,
        median=errors.median,
        changed=errors.changed,
        branches=branches,
    )


def graph_outputs(lowered: Lowered, x: Array) -> Array:
    """[B, O]: what the serving graph gives."""
    session = graph_runner.session(lowered.model, lowered.weights)
    parts = (x[at : at + AT_ONCE].astype(np.float32) for at in range(0, len(x), AT_ONCE))
    return np.concatenate([graph_runner.run(session, {INPUT: part})[OUTPUT] for part in parts])


def _meaning(served: Kan, lowered: Lowered, tolerance: float, bound: float) -> Reference:
    """Rows inside whose answers are what the rounded numbers mean, for the server's check. Raises
    VerificationFailed where too few are."""
    layer = served.layers[0]
    rows = test_points.zone_rows(layer, served.n_inputs, 0, size=max(map(test_points.basis_size, served.layers)))
    x = rows["inside"]
    meant = plan.network_outputs(served, x)
    with np.errstate(invalid="ignore"):
        differences = np.abs(graph_outputs(lowered, x) - meant).max(axis=1) / (
            np.abs(meant[np.isfinite(meant)]).max(initial=0) or 1
        )
    fine = np.isfinite(meant).all(axis=1)
    agree = fine & (differences <= tolerance * SLACK)
    if np.count_nonzero(agree) < AGREE * np.count_nonzero(fine):
        raise VerificationFailed(
            f"the graph is not what its rounded numbers mean: on {np.count_nonzero(agree)} of {len(x)} rows it agrees "
            f"with them to {tolerance * SLACK:.0e}",
            hint="nothing was written; please report this",
        )
    reference = verify.reference(served, lowered, x[agree], tolerance)
    # Elsewhere a sum in another order may put a value on the other side of a step, as it does here on some rows.
    steps = min(SLACK * float(differences[fine].max(initial=0)), bound)
    return dataclasses.replace(reference, tolerance=max(reference.tolerance, steps))


def _worst(branches: tuple[Branch, ...]) -> str:
    worst = max(branches, key=lambda branch: branch.error or branch.first)
    error = worst.error or worst.first
    return (
        f"the worst branch is {worst.kind} of layer {worst.layer}, by "
        f"{'more than any number' if not math.isfinite(error) else f'{error:.1e}'} alone"
    )


def _hint(options: QuantizationOptions) -> str:
    return HINT.format(flag=f"--quantize {options.quantize}")
