"""Networks with inputs clamped to the grid of their first layer."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from kanexport.errors import OptionError
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.steps import Clip, Select
from kanexport.shared import grids

Array = npt.NDArray[np.float64]

ANYWHERE = 1e30  # of an input that no edge reads
HINT = "use --out-of-range reject or flag, which work for models whose inputs have a grid or a --baseline"
clamp_not_possible = functools.partial(OptionError, code="clamp-not-possible", hint=HINT)


NOTE = (
    "inputs are clamped to the grid of the first layer (--out-of-range clamp): a row out of grid gets the output of "
    "the nearest row in the grid, not the output of the trained model"
)


def clamped(kan: Kan) -> Kan:
    """The network with a Clip before its first layer. Raises OptionError if the first layer has no grid."""
    first = kan.layers[0]
    layer = dataclasses.replace(first, pre_steps=(*first.pre_steps, Clip(*limits(first))))
    return dataclasses.replace(kan, layers=(layer, *kan.layers[1:]), notes=(*kan.notes, NOTE))


def limits(layer: Layer) -> tuple[Array, Array]:
    """[I] and [I]: the range of each source on the grids of all terms that read it. Raises OptionError."""
    terms = [term for term in layer.terms if isinstance(term, BasisTerm) and term.basis.knots().size]
    if any(not isinstance(step, Select) for step in layer.pre_steps) or any(term.pre_steps for term in terms):
        raise clamp_not_possible(
            "--out-of-range clamp does not fit this model: a step before the first layer, such as a normalization, "
            "already maps its inputs to the grid"
        )
    low, high = np.full(layer.sources, -np.inf), np.full(layer.sources, np.inf)
    for term in terms:
        knots = term.basis.knots().tolist()  # of each source, or one row for all
        own = [grids.of_knots(term.kind, term.functions, row) for row in knots]
        ends = np.array([(grid.low, grid.high) if grid else (-np.inf, np.inf) for grid in own])
        low, high = np.maximum(low, ends[:, 0]), np.minimum(high, ends[:, 1])
    inputs = np.array(columns(layer))
    for at in np.flatnonzero(np.bincount(inputs) > 1):  # one that is several sources is kept on the grids of all
        low[inputs == at], high[inputs == at] = low[inputs == at].max(), high[inputs == at].min()
    _require(low, high, inputs, np.asarray(layer.active().any(axis=1)))
    return np.maximum(low, -ANYWHERE), np.minimum(high, ANYWHERE)


def _require(low: Array, high: Array, inputs: npt.NDArray[np.intp], read: npt.NDArray[np.bool_]) -> None:
    """Check that each source that is read has a range, [I] each. Raises OptionError."""
    bare = np.flatnonzero(read & ~np.isfinite(low))
    disjoint = np.flatnonzero(low > high)
    if len(bare):
        raise clamp_not_possible(f"--out-of-range clamp does not fit this model: input {inputs[bare[0]]} has no grid")
    if len(disjoint):
        raise clamp_not_possible(
            f"--out-of-range clamp does not fit this model: the grids of input {inputs[disjoint[0]]} do not overlap"
        )


def columns(layer: Layer) -> list[int]:
    """The number of the input that each source reads, [I]. The layer has only selections and clips before it."""
    inputs = list(range(layer.sources))
    for step in reversed(layer.pre_steps):
        if isinstance(step, Select):
            inputs = [step.indices[at] for at in inputs]
    return inputs
