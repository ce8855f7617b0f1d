"""Which branches can have fewer bits: each is tried alone, and has as few as its share of the error allows.

The base branch of efficient-kan and pykan and the splines beside it lose differently, and from layer to layer; so does
every model. Rounding errors of branches do not know each other: of n branches, each may take 1 / sqrt(n) of what the
whole model may.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.approximate import forms
from kanexport.approximate.asked import Fewer
from kanexport.form.ir import Kan
from kanexport.proof import evaluate
from kanexport.shared.approximation import AS_IS, Branch

Array = npt.NDArray[np.float64]

TRIED = 256  # rows on which branches are tried
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Errors:
    """Of answers, relative to the largest: the largest and the median; and of how many rows another output is the
    largest, -1 for one output."""

    largest: float
    median: float
    changed: int


def errors(expected: Array, found: Array) -> Errors:
    """[B, O] each; rows that are not finite where they should be differ without bound."""
    fine = np.isfinite(expected).all(axis=1)
    expected, found = expected[fine], found[fine]
    if not expected.size:
        return Errors(math.inf, math.inf, -1)
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(found - expected), nan=np.inf)
    scale = float(np.abs(expected).max())
    relative = apart / scale if scale else np.where(apart > 0, np.inf, 0.0)
    top = int(np.count_nonzero(expected.argmax(axis=1) != found.argmax(axis=1))) if expected.shape[1] > 1 else -1
    return Errors(float(relative.max()), float(np.median(relative)), top)


def answers(kan: Kan, x: Array) -> Array:
    """[B, O] in float64, some rows at a time."""
    return np.concatenate([evaluate.evaluate(kan, x[at : at + AT_ONCE]).y for at in range(0, len(x), AT_ONCE)])


def choose(kan: Kan, asked: Fewer, x: Array) -> tuple[Branch, ...]:
    """Every live branch, in the form that it can have; `x` [B, inputs]: rows that say so."""
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), TRIED)).round().astype(int))]
    exact = answers(kan, x)
    known = {
        (at, index): forms.possible(layer, term, asked.form)
        for at, layer in enumerate(kan.layers)
        for index, term in enumerate(layer.terms)
    }
    share = asked.bound / math.sqrt(max(1, sum(len(found) > 1 for found in known.values())))
    branches = []
    for (at, index), found in known.items():
        tried: dict[str, float] = {}
        for form in found:
            alone = forms.served(kan, {(at, index): form})
            tried[form] = errors(exact, answers(alone, x)).largest if form != AS_IS else 0.0
            if tried[form] <= share:
                break
        first, last = next(iter(tried.values())), tried[form]
        kind = kan.layers[at].terms[index].kind
        branches.append(Branch(layer=at, term=index, kind=kind, form=form, error=_finite(last), first=_finite(first)))
    return tuple(branches)


def _finite(error: float) -> float:
    """A manifest holds finite numbers only."""
    return min(error, 1e300)
