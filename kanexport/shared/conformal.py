"""Formulas of split conformal prediction that calibration and serving share.

The quantile is the k-th smallest of n calibration scores, with k = ceil((n + 1) * coverage). If the rows are
exchangeable, a new row has at most this score with a probability of at least `coverage`, on average over calibration
files (Vovk, Gammerman and Shafer 2005; Lei et al. 2018, theorem 2.2). For continuous scores, the probability is at most
coverage + 1 / (n + 1).

    ABSOLUTE    score |y - f|, interval f +- quantile (Lei et al. 2018)
    NORMALIZED  score |y - f| / s(f), interval f +- quantile * s(f); s has other rows (Papadopoulos et al. 2002)
    LAC         score 1 - p of the true class, set of all classes with at most this score (Sadinle, Lei and
                Wasserman 2019)

Shapes: B rows, n numbers of the output, C classes.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.sections import LOGITS, OutputInterval

Floats = NDArray[np.float64]


def rank(rows: int, coverage: float) -> int:
    """The number of the quantile among the sorted scores, from 1; more than `rows` if the quantile is infinite. The
    coverage counts as the decimal number that the user wrote."""
    return math.ceil((rows + 1) * _decimal(coverage))


def rows_needed(coverage: float) -> int:
    """The smallest number of calibration rows with a finite quantile."""
    share = _decimal(coverage)
    return math.ceil(share / (1 - share))


def _decimal(coverage: float) -> Fraction:
    """The number that the user wrote: 0.9 is 9/10, and not the nearest binary fraction."""
    return Fraction(repr(float(coverage)))


def quantile(scores: Floats, coverage: float) -> float:
    """The conformal quantile of scores [B]; infinite for fewer rows than `rows_needed`."""
    at = rank(len(scores), coverage)
    return float(np.partition(scores, at - 1)[at - 1]) if at <= len(scores) else math.inf


def spread(interval: OutputInterval, predicted: Floats) -> Floats:
    """The expected absolute residual for predicted values [B]: 1 with ABSOLUTE, NaN for NaN."""
    if not interval.points:
        return np.ones(predicted.shape)
    return np.asarray(np.interp(predicted, interval.points, interval.spreads), np.float64)


def probabilities(outputs: Floats, scores: str) -> Floats:
    """The probability of each class [B, C]. `scores`: LOGITS or PROBABILITIES. A row with NaN has only NaN."""
    if scores != LOGITS:
        return outputs
    with np.errstate(invalid="ignore"):
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
