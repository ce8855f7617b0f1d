"""Network on fixed rows, with forms in place of some edges: outputs, their slopes, and a joint fit of the forms.

The fit is Levenberg-Marquardt on the outputs. Rows do not depend on each other, so that two evaluations per node have
the slopes of the outputs in all values of the node.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.edit.curve_fit import Form
from kanexport.ir.model import Kan, Layer, SymbolicEdge
from kanexport.verify import float64_reference

Array = npt.NDArray[np.float64]
At = tuple[int, int, int]  # layer, source, destination
Forms = Mapping[At, Form]

STEPS, FIRST, PATIENCE = 40, 6, 10  # of a fit, of the first comparison of functions, and of one step
SLOW = 1e-4  # gain of a step, relative, below which a fit ends soon
DONE = 1e-15  # an error that rounding explains
FIT_NODES = 512  # of a joint fit; more would need too many evaluations


@dataclass(frozen=True, slots=True, eq=False)
class Judge:
    """Reference [N, m] that outputs are compared with, and the spread [m] of each output. A constant output is compared
    with its magnitude."""

    reference: Array
    spread: Array

    @classmethod
    def of(cls, reference: Array) -> Judge:
        """The judge of a reference."""
        spread, size = reference.std(axis=0), np.abs(reference).max(axis=0)
        spread = np.where(spread > 1e-12 * size, spread, np.where(size > 0, size, 1.0))
        return cls(reference, spread)

    def error(self, y: Array) -> float:
        """The root mean square error over the spread, of the worst output; infinite if a value is not finite."""
        if not np.isfinite(y).all():
            return float("inf")
        return float(np.sqrt((((y - self.reference) / self.spread) ** 2).mean(axis=0)).max())

    def subset(self, rows: npt.NDArray[np.intp]) -> Judge:
        """The same with a part of the rows."""
        return Judge(self.reference[rows], self.spread)


@dataclass(frozen=True, slots=True, eq=False)
class _Stage:
    """Layer in three parts: steps, the edges that have no form (None if there are none), and steps."""

    layer: Layer
    numeric: Kan | None
    forms: tuple[tuple[At, Form], ...]

    def sources(self, x: Array) -> Array:
        for step in self.layer.pre_steps:
            x = step.evaluate(x)
        return x

    def sums(self, sources: Array) -> Array:
        if self.numeric is None:
            total = np.tile(self.layer.bias, (len(sources), 1))
        else:
            total = float64_reference.evaluate(self.numeric, sources).y
        for (_, source, destination), form in self.forms:
            total[:, destination] += form.values(sources[:, source])
        return total

    def after(self, sums: Array) -> Array:
        for step in self.layer.post_steps:
            sums = step.evaluate(sums)
        return sums


def without(layer: Layer, edges: set[tuple[int, int]]) -> Layer:
    """The layer without the given edges [source, destination]. Values that are not finite spread as before."""
    if not edges:
        return layer
    mask = layer.mask.copy()
    for source, destination in edges:
        mask[source, destination] = 0.0
    symbolic = tuple(edge for edge in layer.symbolic if (edge.source, edge.destination) not in edges)
    return dataclasses.replace(layer, mask=mask, symbolic=symbolic)


@dataclass(frozen=True, slots=True, eq=False)
class Circuit:
    """Network on rows x [N, n] with forms in place of edges.

    sources, sums  the values of each layer, [N, I] and [N, O]
    """

    kan: Kan
    x: Array
    forms: Forms
    stages: tuple[_Stage, ...]
    sources: tuple[Array, ...]
    sums: tuple[Array, ...]
    y: Array

    @classmethod
    def of(cls, kan: Kan, x: Array, forms: Forms) -> Circuit:
        """The network with forms, evaluated on rows."""
        stages = tuple(_stage(layer, at, forms) for at, layer in enumerate(kan.layers))
        return cls._evaluated(kan, x, forms, stages)

    @classmethod
    def _evaluated(cls, kan: Kan, x: Array, forms: Forms, stages: tuple[_Stage, ...]) -> Circuit:
        sources, sums, y = [], [], x
        with np.errstate(all="ignore"):
            for stage in stages:
                sources.append(stage.sources(y))
                sums.append(stage.sums(sources[-1]))
                y = stage.after(sums[-1])
        return cls(kan, x, forms, stages, tuple(sources), tuple(sums), y)

    def with_forms(self, forms: Forms) -> Circuit:
        """The network with other forms. Layers with forms on the same edges are not built again."""
        stages = []
        for at, stage in enumerate(self.stages):
            mine = _of_layer(forms, at)
            same = [edge for edge, _ in mine] == [edge for edge, _ in stage.forms]
            stages.append(dataclasses.replace(stage, forms=mine) if same else _stage(stage.layer, at, forms))
        return Circuit._evaluated(self.kan, self.x, forms, tuple(stages))

    def on(self, x: Array) -> Circuit:
        """The same network on other rows."""
        return Circuit._evaluated(self.kan, x, self.forms, self.stages)

    def values(self, at: At) -> Array:
        """[N]: the values of one edge."""
        layer, source, destination = at
        seen = self.sources[layer]
        if at in self.forms:
            return self.forms[at].values(seen[:, source])
        bare = dataclasses.replace(self.kan.layers[layer], pre_steps=())
        with np.errstate(all="ignore"):
            parts = [values[:, source, destination] for _, values, _ in float64_reference.edges(bare, seen)]
        return np.concatenate(parts)

    def from_sums(self, layer: int, sums: Array) -> Array:
        """The outputs [N, m] for other sums of a layer [N, O]."""
        with np.errstate(all="ignore"):
            y = self.stages[layer].after(sums)
            for stage in self.stages[layer + 1 :]:
                y = stage.after(stage.sums(stage.sources(y)))
        return y

    def replaced(self, at: At, old: Array, new: Array) -> Array:
        """The outputs [N, m] with the values `new` of one edge instead of `old`, [N] both."""
        layer, _, destination = at
        sums = self.sums[layer].copy()
        sums[:, destination] += new - old
        return self.from_sums(layer, sums)

    def defined(self) -> bool:
        """Whether each form is defined between the smallest and the largest value of its source."""
        for (layer, source, _), form in self.forms.items():
            seen = self.sources[layer][:, source]
            if not (np.isfinite(seen).all() and form.defined(float(seen.min()), float(seen.max()))):
                return False
        return True

    def cancels(self) -> bool:
        """Whether a form cancels its own values."""
        return any(form.cancels(self.sources[at[0]][:, at[1]]) for at, form in self.forms.items())

    def slopes(self, layer: int, destination: int) -> Array:
        """[N, m]: the derivatives of the outputs in a sum of a layer; 0 where they are not finite."""
        sums = self.sums[layer].copy()
        at = sums[:, destination]
        step = 1e-6 * max(float(at.std()), 1e-3 * float(np.abs(at).max()), 1e-9)
        sums[:, destination] += step
        with np.errstate(all="ignore"):
            slopes = (self.from_sums(layer, sums) - self.y) / step
        return np.where(np.isfinite(slopes), slopes, 0.0)


def network(kan: Kan, forms: Forms) -> Kan:
    """The network with symbolic edges for the forms. Constants are added to the bias."""
    layers = []
    for at, layer in enumerate(kan.layers):
        mine = _of_layer(forms, at)
        bare, bias, symbolic = without(layer, {edge[1:] for edge, _ in mine}), layer.bias.copy(), []
        for (_, source, destination), form in mine:
            if form.candidate.name == "0":
                bias[destination] += form.d
                continue
            symbolic.append(
                SymbolicEdge(source, destination, form.candidate.function, form.a, form.b, form.c, form.d, 1.0)
            )
        layers.append(dataclasses.replace(bare, bias=bias, symbolic=(*bare.symbolic, *symbolic)))
    return dataclasses.replace(kan, layers=tuple(layers))


def _of_layer(forms: Forms, layer: int) -> tuple[tuple[At, Form], ...]:
    return tuple((at, forms[at]) for at in sorted(forms) if at[0] == layer)


def _stage(layer: Layer, at: int, forms: Forms) -> _Stage:
    mine = _of_layer(forms, at)
    left = dataclasses.replace(without(layer, {edge[1:] for edge, _ in mine}), pre_steps=(), post_steps=())
    numeric = Kan(layer.sources, (left,)) if left.active().any() else None
    return _Stage(layer, numeric, mine)


def parameters(circuit: Circuit, fixed: frozenset[tuple[At, str]] = frozenset()) -> list[tuple[At, str]]:
    """The parameters of all forms that a joint fit changes, without the fixed ones. It does not change parameters that
    another one makes redundant."""
    candidates = ((at, circuit.forms[at].candidate) for at in sorted(circuit.forms))
    names = ((at, ("d",) if own.name == "0" else (*own.free, "c", "d")) for at, own in candidates)
    return [(at, name) for at, some in names for name in some if (at, name) not in fixed]


def refit(
    circuit: Circuit, judge: Judge, fixed: frozenset[tuple[At, str]] = frozenset(), *, steps: int = STEPS
) -> Circuit:
    """The circuit with forms that reproduce the reference of the judge best, from their present parameters on. `fixed`:
    parameters that stay."""
    names = parameters(circuit, fixed)
    if not names or len({at[::2] for at, _ in names}) > FIT_NODES:
        return circuit
    best, damping, error = circuit, 1e-3, _squares(circuit, judge)
    left = steps
    while left > 0 and np.isfinite(error) and error > DONE**2:
        better, damping = _improved(best, judge, names, error, damping)
        if better is None:
            break
        after = _squares(better, judge)
        left -= 1 if after < (1 - SLOW) * error else 8
        best, error, damping = better, after, max(damping / 10, 1e-15)
    return best


def _improved(
    circuit: Circuit, judge: Judge, names: list[tuple[At, str]], error: float, damping: float
) -> tuple[Circuit | None, float]:
    """A circuit with a smaller error after one step, if there is one, and the damping of the step."""
    jacobian, residual = _system(circuit, judge, names)
    scale = np.sqrt((jacobian**2).sum(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    for _ in range(PATIENCE):
        rows = np.concatenate([jacobian / scale, np.sqrt(damping) * np.eye(len(names))])  # columns of length 1
        wanted = np.concatenate([-residual, np.zeros(len(names))])
        change = np.linalg.lstsq(rows, wanted, rcond=None)[0] / scale
        if np.isfinite(change).all():
            forms = dict(circuit.forms)
            for (at, name), delta in zip(names, change, strict=True):
                forms[at] = forms[at].having(name, getattr(forms[at], name) + float(delta))
            tested = circuit.with_forms(forms)
            if _squares(tested, judge) < error:
                return tested, damping
        damping = min(damping * 6, 1e12)
    return None, damping


def _squares(circuit: Circuit, judge: Judge) -> float:
    """The mean square error over the spread; infinite for a form that is not defined."""
    residual = (circuit.y - judge.reference) / judge.spread
    return float((residual**2).mean()) if np.isfinite(residual).all() and circuit.defined() else float("inf")


def _system(circuit: Circuit, judge: Judge, names: list[tuple[At, str]]) -> tuple[Array, Array]:
    """The Jacobian [N * m, P] and the residuals [N * m]."""
    slopes = {node: circuit.slopes(*node) / judge.spread for node in dict.fromkeys((at[0], at[2]) for at, _ in names)}
    columns = []
    for at, name in names:
        change = _derivative(circuit.forms[at], name, circuit.sources[at[0]][:, at[1]])
        columns.append((slopes[at[0], at[2]] * change[:, None]).ravel())
    return np.stack(columns, axis=1), ((circuit.y - judge.reference) / judge.spread).ravel()


def _derivative(form: Form, name: str, x: Array) -> Array:
    """[N]: the derivative of the values of a form in one parameter; 0 where it is not finite."""
    if name == "d":
        return np.ones(len(x))
    if name == "c":
        change = dataclasses.replace(form, c=1.0, d=0.0).values(x)
    else:
        # In b and in a * x, a derivative of the function in its argument.
        step = 1e-6 * max(1.0, abs(form.b) if name == "b" else 1.0)
        sides = [dataclasses.replace(form, b=form.b + sign * step).values(x) for sign in (1, -1)]
        change = (sides[0] - sides[1]) / (2 * step) * (x if name == "a" else 1.0)
    return np.where(np.isfinite(change), change, 0.0)


def active(kan: Kan) -> Iterator[At]:
    """The edges with a basis that can contribute. Symbolic edges without a basis keep their functions."""
    for at, layer in enumerate(kan.layers):
        for source, destination in np.argwhere((layer.mask != 0) & bool(layer.terms)):
            yield at, int(source), int(destination)
