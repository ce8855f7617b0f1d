"""A network whose inputs are kept on the grid of its first layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kanexport.errors import OptionError
from kanexport.form.ir import BasisTerm, Kan, Layer
from kanexport.form.steps import Clip, Select
from kanexport.shared import grids

Array = npt.NDArray[np.float64]

ANYWHERE = 1e30  # of an input that no edge reads
HINT = "--outside reject or flag work for any model whose inputs have a grid or a --reference"


NOTE = (
    "inputs are kept on the grid of the first layer (--outside clamp): a row beyond it is answered as the nearest one "
    "on it, not as the trained model answers it"
)


def clamped(kan: Kan) -> Kan:
    """The network with one step more before its first layer, a Clip. Raises OptionError where it has no grid to keep
    inputs on."""
    first = kan.layers[0]
    layer = dataclasses.replace(first, before=(*first.before, Clip(*limits(first))))
    return dataclasses.replace(kan, layers=(layer, *kan.layers[1:]), notes=(*kan.notes, NOTE))


def limits(layer: Layer) -> tuple[Array, Array]:
    """[I] and [I]: from where to where each source lies on the grids of all terms that read it. Raises OptionError."""
    terms = [term for term in layer.terms if isinstance(term, BasisTerm) and term.basis.knots().size]
    if any(not isinstance(step, Select) for step in layer.before) or any(term.before for term in terms):
        raise OptionError(
            "--outside clamp: the first layer reads its inputs after a step, such as a normalisation, that puts them "
            "on its grid; by itself none is outside",
            hint=HINT,
        )
    low, high = np.full(layer.sources, -np.inf), np.full(layer.sources, np.inf)
    for term in terms:
        ends = _ends(term)
        low, high = np.maximum(low, ends[:, 0]), np.minimum(high, ends[:, 1])
    inputs = np.array(columns(layer))
    for at in np.flatnonzero(np.bincount(inputs) > 1):  # one that is several sources is kept on the grids of all
        low[inputs == at], high[inputs == at] = low[inputs == at].max(), high[inputs == at].min()
    _require(low, high, inputs, np.asarray(layer.active().any(axis=1)))
    return np.maximum(low, -ANYWHERE), np.minimum(high, ANYWHERE)


def _ends(term: BasisTerm) -> Array:
    """[I, 2], or [1, 2] where all sources share it: the grid of each, without ends where there is none."""
    found = [grids.of_knots(term.kind, term.functions, row) for row in term.basis.knots().tolist()]
    return np.array([(one.low, one.high) if one else (-np.inf, np.inf) for one in found])


def _require(low: Array, high: Array, inputs: npt.NDArray[np.intp], read: npt.NDArray[np.bool_]) -> None:
    """Whether each source that is read has somewhere to be, [I] each. Raises OptionError."""
    bare = np.flatnonzero(read & ~np.isfinite(low))
    apart = np.flatnonzero(low > high)
    if len(bare):
        raise OptionError(f"--outside clamp: input {inputs[bare[0]]} has no grid to be kept on", hint=HINT)
    if len(apart):
        raise OptionError(f"--outside clamp: the grids of input {inputs[apart[0]]} have nothing in common", hint=HINT)


def columns(layer: Layer) -> list[int]:
    """Which input each source is, [I]; the layer has no other steps before than selections and what keeps inputs."""
    found = list(range(layer.sources))
    for step in reversed(layer.before):
        if isinstance(step, Select):
            found = [step.indices[at] for at in found]
    return found
