"""Boxes of inputs: the training grid of a network, or the range of rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.bundle.baseline import Rows
from kanexport.certify.edges import refuse
from kanexport.ir.model import Kan
from kanexport.ir.scaling import Standardize
from kanexport.ir.steps import Affine, Clip, Select

Array = npt.NDArray[np.float64]


def of_rows(rows: Rows) -> tuple[Array, Array]:
    """The smallest and largest value of each column, [n] twice."""
    return rows.x.min(axis=0), rows.x.max(axis=0)


def of_grid(kan: Kan) -> tuple[Array, Array]:
    """The grid of each input [n] twice, in the units of the inputs; [-1, 1] for an input that no edge reads. Raises
    InvalidKan if a step before the first layer has no inverse."""
    first = kan.layers[0]
    low, high = first.support().core
    for step in reversed(first.pre_steps):
        if isinstance(step, Select):
            low, high = _before(step, low, high, kan.n_inputs)
        elif isinstance(step, Standardize):
            low, high = low * step.scale + step.offset, high * step.scale + step.offset
        elif isinstance(step, Affine) and (step.scale != 0).all():
            ends = (low - step.bias) / step.scale, (high - step.bias) / step.scale
            low, high = np.minimum(*ends), np.maximum(*ends)
        elif not isinstance(step, Clip):
            raise refuse(f"a step of kind {step.describe().kind!r} before the first layer has no grid")
    return low.astype(np.float64), high.astype(np.float64)


def _before(step: Select, low: Array, high: Array, width: int) -> tuple[Array, Array]:
    """The box before a selection. An input that is several sources has the range of all of them."""
    if list(step.indices) == list(range(width)):
        return low, high
    before_low, before_high = np.full(width, np.inf), np.full(width, -np.inf)
    np.minimum.at(before_low, list(step.indices), low)
    np.maximum.at(before_high, list(step.indices), high)
    unread = before_low > before_high
    return np.where(unread, -1.0, before_low), np.where(unread, 1.0, before_high)
