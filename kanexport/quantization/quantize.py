"""Quantized graphs of a network, and their measured errors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bundle import baseline
from kanexport.errors import REPORT, OptionError, VerificationFailed
from kanexport.ir import scaling
from kanexport.ir.model import Kan
from kanexport.lowering.lower import INPUT, OUTPUT, Lowered
from kanexport.quantization import plan
from kanexport.quantization.options import QuantizationOptions
from kanexport.quantization.plan import Forms
from kanexport.shared.manifest import Reference, TensorSpec
from kanexport.shared.naming import Names
from kanexport.shared.sections import FLOAT32, Approximation, Branch
from kanexport.verify import graph_runner, test_points, verify
from kanexport.verify.tolerances import SLACK
from kanexport.verify.verify import Proof

Array = npt.NDArray[np.float64]

CALIBRATION = "--calibration"
GENERATED_ZONES = ("inside", "extension", "knots")  # zones, where the user gave no rows
ROWS_LIMIT = 4096  # rows on which the whole is measured


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
    """Raises OptionError if the rows do not fit the model, and InvalidKan for a weight that is too large."""
    x = rows(kan, options, inputs, names)
    branches = plan.choose(kan, options, x)
    chosen = {(branch.layer, branch.term): branch.form for branch in branches}
    served = plan.served(kan, chosen)
    return QuantizedNetwork(kan, served, plan.curves(served), branches, chosen, x)


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
        raise OptionError(
            f"{CALIBRATION} {options.rows.name} has {x[at, column]} in column {column} of row {at}, expected finite "
            "numbers",
            code="rows-not-finite",
            hint="remove rows with NaN or infinity",
        )
    return np.asarray(x.astype(np.float32), dtype=np.float64)


AGREE = 0.25  # of the rows inside, that must: steps are rare, and of a row with thousands of sources one is on another
AT_ONCE = 1024


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
        raise VerificationFailed(
            f"{error.message}; {_worst(branches)}", code=error.code, hint=_hint(options)
        ) from error
    return dataclasses.replace(proof, reference=reference)


def measure(
    exact: Kan, lowered: Lowered, branches: tuple[Branch, ...], options: QuantizationOptions, x: Array
) -> Approximation:
    """The error of the outputs of the graph on rows x [B, inputs], compared with the checkpoint. Raises
    VerificationFailed if it exceeds the limit, or if no branch is quantized."""
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
    outputs = scaling.in_network_units(exact, graph_outputs(lowered, x))
    errors = plan.errors(plan.network_outputs(exact, x), outputs)
    if not errors.largest <= options.bound:
        raise VerificationFailed(
            f"the outputs of the quantized graph are off by {errors.largest:.2e} of the largest output on {len(x)} "
            f"rows, more than --max-error {options.bound:g}; {_worst(branches)}",
            code="quantization-error-too-large",
            hint=_hint(options),
        )
    return Approximation(
        quantize=options.quantize,
        max_error=options.bound,
        rows=len(x),
        rows_from="generated by the exporter" if options.rows is None else options.rows.name,
        rows_sha256="" if options.rows is None else options.rows.sha256,
        error=errors.largest,
        median=errors.median,
        changed=errors.changed,
        branches=branches,
    )


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
    meant = plan.network_outputs(served, x)
    with np.errstate(invalid="ignore"):
        outputs = scaling.in_network_units(served, graph_outputs(lowered, x))
        differences = np.abs(outputs - meant).max(axis=1) / (np.abs(meant[np.isfinite(meant)]).max(initial=0) or 1)
    fine = np.isfinite(meant).all(axis=1)
    agree = fine & (differences <= tolerance * SLACK)
    if np.count_nonzero(agree) < AGREE * np.count_nonzero(fine):
        raise VerificationFailed(
            "internal check failed: the quantized graph matches its float64 reference on only "
            f"{np.count_nonzero(agree)} of {len(x)} rows (tolerance {tolerance * SLACK:.0e})",
            code="internal-check-failed",
            hint=REPORT,
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
