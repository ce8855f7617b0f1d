"""Edits of a network: each operation as a pure function from an edge to a layer, and all edits of a request.

EXACT: the edited network has the requested curve for each input. FITTED: the basis of the edge cannot express the
curve, so that the network has the nearest curve of the basis, whose error is measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.edit import edge as edges
from kanexport.edit import forms, operations, refit
from kanexport.edit.edge import NOT_SUPPORTED, WITH_TO, Edge
from kanexport.edit.operations import EdgeEdit
from kanexport.edit.refit import Fitted
from kanexport.errors import InvalidKan
from kanexport.ir.model import EdgeTerm, Kan, Layer
from kanexport.ir.scaling import Standardize

Array = npt.NDArray[np.float64]

EXACT, FITTED = "exact", "fitted"


@dataclass(frozen=True, slots=True)
class Change:
    """Applied edit.

    form       EXACT or FITTED
    error_max  largest difference of the new curve from the requested one: over the grid, or at the points of the user;
               of MONOTONE from the curve before
    error_rms  its root mean square
    """

    edit: EdgeEdit
    form: str
    error_max: float = 0.0
    error_rms: float = 0.0


@dataclass(frozen=True, slots=True)
class Edited:
    """Edited network, and one change for each edit."""

    kan: Kan
    changes: tuple[Change, ...]

    def notes(self) -> tuple[str, ...]:
        """A sentence for each edit, for the manifest."""
        lines = []
        for change in self.changes:
            text = f"edge {change.edit.name} was edited: {change.edit.summary}"
            if change.form == FITTED:
                others = {operations.POINTS: "the points", operations.MONOTONE: "the curve before"}
                what = others.get(change.edit.operation, "the requested curve")
                text += f"; the nearest curve of its basis differs from {what} by up to {change.error_max:.2e}"
            lines.append(text)
        return tuple(lines)


def apply(kan: Kan, edits: Sequence[EdgeEdit], scaler: Standardize | None = None) -> Edited:
    """Apply the edits in their order. `scaler`: of the inputs, if x of the first layer is in the user's units; the
    network itself is without it. Raises OptionError for an edge or a value that does not fit the network, and
    InvalidKan for an operation that the edge does not support."""
    operations.check(edits)
    changes = []
    for edit in edits:
        edge = edges.find(kan, edit.edge, scaler)
        layer, change = OPERATORS[edit.operation](edge, edit)
        changes.append(change)
        kan = edges.replaced(kan, edge, layer)
    return Edited(kan, tuple(changes))


Applied = tuple[Layer, Change]


def _what(edge: Edge, edit: EdgeEdit) -> str:
    return f"edge {edge.name}: --{edit.operation} {edit.text[:80]}".strip()


def _to(edge: Edge, edit: EdgeEdit) -> Applied:
    what = _what(edge, edit)
    layer = edge.only(edge.of_x(forms.symbolic(edit.text, edge.source, edge.destination, what=what)))
    forms.check(edge.on(layer).values, *edge.grid(), what=what)
    return layer, Change(edit, EXACT)


def _raise(edge: Edge, edit: EdgeEdit) -> Applied:
    own, (distance,) = edge.symbolic, edit.numbers
    if own is None:
        return edge.with_symbolic(forms.constant(distance, edge.source, edge.destination)), Change(edit, EXACT)
    return edge.with_symbolic(dataclasses.replace(own, d=own.d + distance / own.mask)), Change(edit, EXACT)


def _shift(edge: Edge, edit: EdgeEdit) -> Applied:
    own, (distance,) = edge.symbolic, edit.numbers
    pair = edge.source, edge.destination
    used = [term for term in edge.layer.terms if np.any(term.coef[pair])] if edge.numeric else []
    if all(isinstance(term, EdgeTerm) and not term.pre_steps for term in used):  # functions that can be moved along x
        layer = edge.layer
        if own is not None:
            layer = edge.with_symbolic(dataclasses.replace(own, b=own.b - own.a * distance / edge.scale))
        if edge.numeric:
            moved = tuple(
                edge.moved(at, distance) if isinstance(term, EdgeTerm) else term for at, term in enumerate(layer.terms)
            )
            layer = dataclasses.replace(layer, terms=moved)
        forms.check(edge.on(layer).values, *edge.grid(), what=_what(edge, edit))
        return layer, Change(edit, EXACT)
    low, high = edge.grid()
    if abs(distance) >= high - low:
        raise InvalidKan(
            f"edge {edge.name}: --{operations.SHIFT} {distance:g} moves its curve off the grid {low:g} to {high:g}",
            code="shift-too-far",
            hint=f"shift by less than {high - low:g}",
        )
    x, weights = refit.grid_points(edge)
    target = edge.values(x - distance)
    _require_finite(edge, edit, target)
    return _fitted(edit, refit.nearest(edge, target, x, weights))


def _require_finite(edge: Edge, edit: EdgeEdit, target: Array) -> None:
    """Raises InvalidKan for a curve with values that are not finite."""
    if not np.isfinite(target).all():
        raise InvalidKan(
            f"{_what(edge, edit)}: the curve is not finite on its grid", code="expression-undefined", hint=WITH_TO
        )


def _clamp(edge: Edge, edit: EdgeEdit) -> Applied:
    own, (low, high) = edge.symbolic, edit.numbers
    if own is not None and not edge.numeric:
        layer = edge.only(forms.clamped(own, low, high))
        forms.check(edge.on(layer).values, *edge.grid(), what=_what(edge, edit))
        return layer, Change(edit, EXACT)
    _require_finite(edge, edit, edge.values(refit.grid_points(edge)[0]))
    return _fitted(edit, refit.clamp(edge, low, high))


def _monotone(edge: Edge, edit: EdgeEdit) -> Applied:
    if edge.symbolic is not None and not edge.numeric:
        raise InvalidKan(
            f"edge {edge.name} is the function {edge.symbolic.function.name[:40]}, to which no curve can be fitted",
            code=NOT_SUPPORTED,
            hint=WITH_TO,
        )
    _require_finite(edge, edit, edge.values(refit.grid_points(edge)[0]))
    return _fitted(edit, refit.monotone(edge, up=edit.text == operations.UP))


def _fitted(edit: EdgeEdit, fitted: Fitted) -> Applied:
    return fitted.layer, Change(edit, FITTED, fitted.error_max, fitted.error_rms)


OPERATORS: dict[str, Callable[[Edge, EdgeEdit], Applied]] = {
    operations.TO: _to,
    operations.ZERO: lambda edge, edit: (edge.only(None), Change(edit, EXACT)),
    operations.CLAMP: _clamp,
    operations.MONOTONE: _monotone,
    operations.SHIFT: _shift,
    operations.RAISE: _raise,
    operations.POINTS: lambda edge, edit: _fitted(edit, refit.points(edge, *np.array(edit.points, dtype=np.float64).T)),
}
