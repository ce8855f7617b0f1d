"""The proof of a graph that keeps its inputs on the grid: it is the graph that does not, given what was kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.errors import VerificationFailed
from kanexport.form import clamp
from kanexport.form.ir import Layer
from kanexport.form.steps import Clip
from kanexport.lowering.lower import Lowered
from kanexport.lowering.serving import INPUT
from kanexport.proof import runtime, trial_rows

Rows = npt.NDArray[np.floating]


def prove(layer: Layer, width: int, plain: Lowered, clamped: Lowered, dtype: str) -> int:
    """On rows of all zones of the first layer, which ends with a Clip: bit by bit what `plain` gives for the rows with
    each source kept between the clip's ends, and so for rows on the grid what it gives for themselves. Outputs and the
    first layer's edges. Returns how many rows were beyond. Raises VerificationFailed, naming the row."""
    zones = trial_rows.zone_rows(layer, width, seed=1)
    rows = np.concatenate(list(zones.values())).astype(dtype)
    kept = _kept(layer, rows)
    names = (plain.node_tensors[0], clamped.node_tensors[0])
    for model, other, (name, of) in (
        (clamped.model, plain.model, (INPUT, INPUT)),
        (clamped.edges[0], plain.edges[0], names),
    ):
        found = runtime.run(runtime.session(model, clamped.weights), {of: rows})
        expected = runtime.run(runtime.session(other, plain.weights), {name: kept})
        for output, values in expected.items():
            apart = ~_same(found[output], values).reshape(len(rows), -1).all(axis=1)
            if apart.any():
                raise VerificationFailed(
                    f"the graph that keeps inputs on the grid gives another {output} for row "
                    f"{rows[int(apart.argmax())].tolist()[:8]} than the model gives for the row on the grid",
                    hint="nothing was written; --outside as-trained leaves inputs as they are",
                )
    return int((~_same(rows, kept)).any(axis=1).sum())


def _kept(layer: Layer, rows: Rows) -> Rows:
    """[B, n] with those that are sources kept where the last step keeps them."""
    clip = layer.before[-1]
    assert isinstance(clip, Clip)
    found = rows.copy()
    for source, column in enumerate(clamp.columns(layer)):
        low, high = (ends[source].astype(rows.dtype) for ends in (clip.low, clip.high))
        found[:, column] = np.clip(found[:, column], low, high)
    return found


def _same(one: Rows, other: Rows) -> npt.NDArray[np.bool_]:
    return np.asarray((one == other) | (np.isnan(one) & np.isnan(other)))
