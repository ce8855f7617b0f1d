"""Choice of the branches to quantize: the exporter tests each by itself, and quantizes it as far as its share of the
error allows.

The loss differs between the base branch and the splines of efficient-kan and pykan, between layers, and between models.
Rounding errors of branches are independent: with n branches, each may have 1 / sqrt(n) of the error of the whole model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.graph import precision
from kanexport.ir import scaling
from kanexport.ir.model import BasisTerm, Kan, Layer, Term
from kanexport.ir.quantized_basis import Stepped, stepped
from kanexport.lowering import passes
from kanexport.quantization.options import QuantizationOptions
from kanexport.shared.sections import FLOAT32, FP16_WEIGHTS, INT8, INT8_WEIGHTS, Branch
from kanexport.verify import float64_reference

Array = npt.NDArray[np.float64]

TRIED = 256  # rows on which branches are tried
AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of outputs, relative to the largest output.

    largest, median  over the rows
    changed          the number of rows in which another output is the largest, -1 for one output
    """

    largest: float
    median: float
    changed: int


def errors(expected: Array, outputs: Array) -> Errors:
    """[B, O] each; rows that are finite on only one side differ without bound."""
    fine = np.isfinite(expected).all(axis=1)
    expected, outputs = expected[fine], outputs[fine]
    if not expected.size:
        return Errors(math.inf, math.inf, -1)
    with np.errstate(invalid="ignore"):
        differences = np.nan_to_num(np.abs(outputs - expected), nan=np.inf)
    scale = float(np.abs(expected).max())
    relative = differences / scale if scale else np.where(differences > 0, np.inf, 0.0)
    top = int(np.count_nonzero(expected.argmax(axis=1) != outputs.argmax(axis=1))) if expected.shape[1] > 1 else -1
    return Errors(float(relative.max()), float(np.median(relative)), top)


def network_outputs(kan: Kan, x: Array) -> Array:
    """[B, O] in float64, in the network's units, in chunks of rows."""
    parts = [float64_reference.evaluate(kan, x[at : at + AT_ONCE]).y for at in range(0, len(x), AT_ONCE)]
    return scaling.in_network_units(kan, np.concatenate(parts))


def choose(kan: Kan, options: QuantizationOptions, x: Array) -> tuple[Branch, ...]:
    """Every live branch, with its form; `x` [B, inputs]: rows on which the errors are measured."""
    x = x[np.unique(np.linspace(0, len(x) - 1, min(len(x), TRIED)).round().astype(int))]
    exact = network_outputs(kan, x)
    known = {
        (at, index): possible(layer, term, options.quantize)
        for at, layer in enumerate(kan.layers)
        for index, term in enumerate(layer.terms)
    }
    share = options.bound / math.sqrt(max(1, sum(len(forms) > 1 for forms in known.values())))
    branches = []
    for (at, index), forms in known.items():
        tried: dict[str, float] = {}
        for form in forms:
            alone = served(kan, {(at, index): form})
            tried[form] = errors(exact, network_outputs(alone, x)).largest if form != FLOAT32 else 0.0
            if tried[form] <= share:
                break
        first, last = next(iter(tried.values())), tried[form]
        kind = kan.layers[at].terms[index].kind
        branches.append(Branch(layer=at, term=index, kind=kind, form=form, error=_finite(last), first=_finite(first)))
    return tuple(branches)


def _finite(error: float) -> float:
    """The error, without infinity: a manifest has only finite numbers."""
    return min(error, 1e300)


STORED = {INT8: precision.BYTES, INT8_WEIGHTS: precision.BYTES, FP16_WEIGHTS: precision.HALF}
Forms = Mapping[tuple[int, int], str]  # by layer and term; FLOAT32 where there is none


def possible(layer: Layer, term: Term, quantize: str) -> tuple[str, ...]:
    """The forms that a branch may have for a method of quantization, the smallest first."""
    if term not in passes.live(layer).terms or not isinstance(term, BasisTerm):
        return (FLOAT32,)  # functions that every edge shifts for itself are numbers of three kinds; they stay
    if quantize == FP16_WEIGHTS:
        return (FP16_WEIGHTS, FLOAT32)
    fits = layer.sources * term.functions <= precision.DEPTH
    sums = (INT8,) if fits and stepped(term.basis, layer.sources, _room(layer, term)) else ()
    halves = (FP16_WEIGHTS,) if np.abs(passes.coefficients(layer, term)).max() <= precision.LARGEST_HALF else ()
    return (*sums, INT8_WEIGHTS, *halves, FLOAT32)


def served(kan: Kan, forms: Forms) -> Kan:
    """The network that the graph computes: with rounded coefficients, and quantized bases for sums of int8 values."""
    layers = []
    for at, layer in enumerate(kan.layers):
        terms = [_term(layer, term, forms.get((at, index), FLOAT32)) for index, term in enumerate(layer.terms)]
        layers.append(dataclasses.replace(layer, terms=tuple(terms)))
    return dataclasses.replace(kan, layers=tuple(layers))


def curves(served: Kan) -> Kan:
    """The same coefficients with exact bases: the functions whose edge values are reported."""
    layers = [dataclasses.replace(layer, terms=tuple(map(_plain, layer.terms))) for layer in served.layers]
    return dataclasses.replace(served, layers=tuple(layers))


def _plain(term: Term) -> Term:
    if isinstance(term, BasisTerm) and isinstance(term.basis, Stepped):
        return dataclasses.replace(term, basis=term.basis.basis)
    return term


def _term(layer: Layer, term: Term, form: str) -> Term:
    if form == FLOAT32 or not isinstance(term, BasisTerm):
        return term
    how = STORED[form]
    mask = layer.mask[:, :, None]
    rounded_values = precision.rounded(passes.coefficients(layer, term), how)
    with np.errstate(divide="ignore", invalid="ignore"):
        coef = np.where(mask == 0, term.coef, rounded_values / mask)
    basis = stepped(term.basis, layer.sources, _room(layer, term)) if form == INT8 else None
    return dataclasses.replace(term, coef=coef, stored=how, basis=basis or term.basis)


def _room(layer: Layer, term: BasisTerm) -> int:
    """The size limit of a table in bytes: half of the size of the coefficients; for small layers a page."""
    return max(term.functions * layer.mask.size // 2, 32768)
