"""The proof of a graph with fewer bits, in three parts.

It is what its rounded numbers mean: where no rounding falls on the other side of a step, graph and float64 agree as in
any other export. It is as near to the checkpoint as was allowed, zone by zone, its edges too. And how near it
is on rows of the user's data, or on rows made for it, is measured with the graph itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from kanexport.approximate import choose
from kanexport.approximate.asked import Fewer
from kanexport.errors import VerificationFailed
from kanexport.form.ir import Kan
from kanexport.lowering.lower import Lowered
from kanexport.lowering.serving import INPUT, OUTPUT
from kanexport.manifest import Reference
from kanexport.proof import runtime, trial_rows, verify
from kanexport.proof.tolerance import SLACK
from kanexport.proof.verify import Proof
from kanexport.shared.approximation import AS_IS, Approximation, Branch

Array = npt.NDArray[np.float64]

AGREE = 0.25  # of the rows inside, that must: steps are rare, and of a row with thousands of sources one is on another
AT_ONCE = 1024
HINT = "nothing was written; --max-error sets the bound, and without {flag} nothing is approximate"


def prove(
    exact: Kan,
    served: Kan,
    lowered: Lowered,
    branches: tuple[Branch, ...],
    asked: Fewer,
    tolerance: float,
    advance: Callable[[int, int], None],
) -> Proof:
    """`exact`: the network as it was read; `served`: what the graphs `lowered` mean; `tolerance`: between those two,
    relative. Raises VerificationFailed and InvalidKan."""
    reference = _meaning(served, lowered, tolerance, asked.bound)
    try:
        told = verify.verify(exact, lowered, "float32", tolerance=asked.bound, advance=advance)
    except VerificationFailed as error:
        raise VerificationFailed(f"{error.message}; {_worst(branches)}", hint=_hint(asked)) from error
    return dataclasses.replace(told, reference=reference)


def measure(exact: Kan, lowered: Lowered, branches: tuple[Branch, ...], asked: Fewer, x: Array) -> Approximation:
    """What the graph answers on rows x [B, inputs], beside the checkpoint. Raises VerificationFailed where that is
    further from it than allowed, or no branch has fewer bits."""
    if not any(branch.form != AS_IS or branch.first for branch in branches):
        raise VerificationFailed(
            "the network has nothing to store in fewer bits: symbolic edges, and functions that every edge shifts and "
            "stretches for itself, stay in float32",
            hint="nothing was written",
        )
    if all(branch.form == AS_IS for branch in branches):
        raise VerificationFailed(
            f"no branch can have fewer bits within --max-error {asked.bound:g}: {_worst(branches)}", hint=_hint(asked)
        )
    found = choose.errors(choose.answers(exact, x), answers(lowered, x))
    if not found.largest <= asked.bound:
        raise VerificationFailed(
            f"answers in fewer bits differ from the checkpoint's by {found.largest:.2e} of the largest on {len(x)} "
            f"rows, more than --max-error {asked.bound:g}; {_worst(branches)}",
            hint=_hint(asked),
        )
    return Approximation(
        asked=asked.form,
        max_error=asked.bound,
        rows=len(x),
        rows_from="made for the export" if asked.rows is None else asked.rows.name,
        rows_sha256="" if asked.rows is None else asked.rows.sha256,
        error=found.largest,
        median=found.median,
        changed=found.changed,
        branches=branches,
    )


def answers(lowered: Lowered, x: Array) -> Array:
    """[B, O]: what the serving graph gives."""
    session = runtime.session(lowered.model, lowered.weights)
    parts = (x[at : at + AT_ONCE].astype(np.float32) for at in range(0, len(x), AT_ONCE))
    return np.concatenate([runtime.run(session, {INPUT: part})[OUTPUT] for part in parts])


def _meaning(served: Kan, lowered: Lowered, tolerance: float, bound: float) -> Reference:
    """Rows inside whose answers are what the rounded numbers mean, for the server's check. Raises
    VerificationFailed where too few are."""
    layer = served.layers[0]
    rows = trial_rows.zone_rows(layer, served.n_inputs, 0, size=max(map(trial_rows.basis_size, served.layers)))
    x = rows["inside"]
    meant = choose.answers(served, x)
    with np.errstate(invalid="ignore"):
        apart = np.abs(answers(lowered, x) - meant).max(axis=1) / (
            np.abs(meant[np.isfinite(meant)]).max(initial=0) or 1
        )
    fine = np.isfinite(meant).all(axis=1)
    agree = fine & (apart <= tolerance * SLACK)
    if np.count_nonzero(agree) < AGREE * np.count_nonzero(fine):
        raise VerificationFailed(
            f"the graph is not what its rounded numbers mean: on {np.count_nonzero(agree)} of {len(x)} rows it agrees "
            f"with them to {tolerance * SLACK:.0e}",
            hint="nothing was written; please report this",
        )
    reference = verify.reference(served, lowered, x[agree], tolerance)
    # Elsewhere a sum in another order may put a value on the other side of a step, as it does here on some rows.
    steps = min(SLACK * float(apart[fine].max(initial=0)), bound)
    return dataclasses.replace(reference, tolerance=max(reference.tolerance, steps))


def _worst(branches: tuple[Branch, ...]) -> str:
    worst = max(branches, key=lambda branch: branch.error or branch.first)
    error = worst.error or worst.first
    return (
        f"the worst branch is {worst.kind} of layer {worst.layer}, by "
        f"{'more than any number' if not math.isfinite(error) else f'{error:.1e}'} alone"
    )


def _hint(asked: Fewer) -> str:
    return HINT.format(flag=f"--precision {asked.precision}" if asked.precision else f"--weights {asked.weights}")
