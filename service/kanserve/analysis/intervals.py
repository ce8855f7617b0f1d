"""Prediction intervals and prediction sets of outputs, from the `intervals` section of a manifest.

`kanexport.shared.conformal` has the formulas and their sources.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import conformal
from kanexport.shared.sections import LAC, Intervals
from kanserve.types import Array

NAME = "kan.interval"  # of the optional output
OUT_OF_RANGE = f"{NAME}_out_of_range"  # of the output next to it, which marks rows


def of(section: Intervals, outputs: Array) -> NDArray[np.float64] | NDArray[np.uint8]:
    """The intervals of the first output of a model, as the graph returns it.

    outputs  [B, *shape], numbers
    returns  float64 [B, *shape, 2], the lower and the upper end of each interval; NaN for NaN.
             With LAC, uint8 [B, C]: 1 for each class in the set. The class with the largest output is in each set. A
             row with NaN has all classes in its set.

    Raises ValueError for a section without a method, and for outputs of another width.
    """
    if not section.method:
        raise ValueError("the manifest has no prediction intervals")
    values = np.asarray(outputs, np.float64)
    if section.method == LAC:
        return _sets(section, values)
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    if flat.shape[1] != len(section.outputs):
        raise ValueError(f"the outputs have {flat.shape[1]} numbers per row, the intervals {len(section.outputs)}")
    half = np.empty(flat.shape)
    for at, interval in enumerate(section.outputs):
        half[:, at] = interval.quantile * conformal.spread(interval, flat[:, at])
    return np.stack([flat - half, flat + half], axis=-1).reshape(*values.shape, 2)


def _sets(section: Intervals, outputs: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The classes in the set of each row [B, C]."""
    if outputs.ndim != 2:
        raise ValueError(f"outputs of a classifier have {outputs.ndim} axes, expected 2")
    p = conformal.probabilities(outputs, section.scores)
    with np.errstate(invalid="ignore"):
        chosen = ~(1 - p > section.threshold)  # NaN is in the set
    unknown = np.isnan(outputs).any(axis=1)
    chosen[unknown] = True
    rows = np.flatnonzero(~unknown)
    chosen[rows, outputs[rows].argmax(axis=1)] = True
    return np.asarray(chosen, np.uint8)
