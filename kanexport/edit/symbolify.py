"""Replacement of edges by functions of the symbolic table, one after another, judged at the outputs of the network.

1. Edges without effect become constants, smallest effect first.
2. Every other edge is replaced by the function with the best score: the error of the outputs after a joint fit of all
   forms, and the complexity of the function. Simple functions come first, then small damage.
3. Forms are revised: another function takes the place of a form if the score of the whole network improves.
4. Constants become simple numbers if the error stays (`constants.py`).

The error is that of `Judge.error`. It must not exceed the tolerance on any part of the rows. Every fourth row is left
out of the fits. The search has no random part, so that its result is the same in every run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.edit import circuit, constants, curve_fit, library
from kanexport.edit.circuit import At, Circuit, Forms, Judge
from kanexport.edit.curve_fit import Form
from kanexport.edit.library import Candidate
from kanexport.errors import InvalidKan, OptionError
from kanexport.ir.model import Kan

Array = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]

LEAST_ROWS, JUDGED, FITTED = 16, 4096, 384  # rows
LARGEST = 512  # edges of a network; each needs some seconds
ZERO_SHARE = 0.3  # of the tolerance, for edges that become constants
DECADES = 0.25  # of the error, that one unit of complexity is worth
DETAIL = 0.1  # of the tolerance: training errors of the curves are as large
EXACT = 1e-9  # the same against targets
REFITTED = 2  # functions of an edge and of each complexity that a joint fit compares
FINISHED = 3  # of them that are fitted to the end
REVISED, SWEEPS = 8, 3  # forms of a network that are revised, and how often


@dataclass(frozen=True, slots=True)
class Replacement:
    """Form of one edge, and the error of the outputs after its replacement and those before it."""

    at: At
    form: Form
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Symbolified:
    """Network with forms.

    replaced    in the order of their replacement, with their final forms
    left        edges that keep their curves
    base        the error of the original network, 0 without targets
    error       the error of the new network on all rows, and on the rows that no fit used
    undefined   edges whose form is not defined on the whole training grid, with that grid
    """

    kan: Kan
    replaced: tuple[Replacement, ...]
    left: tuple[At, ...]
    base: float
    error: float
    held_out: float
    undefined: tuple[tuple[At, float, float], ...]

    def forms(self) -> Forms:
        """The form of each replaced edge."""
        return {entry.at: entry.form for entry in self.replaced}


def symbolify(
    kan: Kan,
    rows: Array,
    tolerance: float,
    *,
    targets: Array | None = None,
    names: Sequence[str] = (),
    advance: Progress = lambda done, total: None,
) -> Symbolified:
    """Replace edges of a network by functions.

    rows       [N, n], from where the network is used
    tolerance  the largest error of the outputs, relative to their spread; with targets, in addition to the error of the
               original network
    targets    [N, m]: true values, to which the forms are fitted; otherwise the outputs of the network
    names      functions of the library; empty: the standard ones
    advance    receives the number of edges that are decided, and of all

    Raises InvalidKan for a network of class B, and OptionError.
    """
    functions = library.chosen(names)
    _check(kan, rows, tolerance, targets)
    search = _Search(kan, rows, tolerance, targets, functions, advance)
    search.drop()
    search.place()
    search.revise()
    search.place()
    search.polish()
    return search.result()


def _check(kan: Kan, rows: Array, tolerance: float, targets: Array | None) -> None:
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise OptionError(
            f"the tolerance is {tolerance:g}, expected a positive number",
            code="tolerance-out-of-range",
            hint="pass a relative error such as --tolerance 1e-3",
        )
    if kan.edge_class != "A":
        raise InvalidKan(
            "the network is of class B: a step reads the whole row, so that its edges are not functions of one node",
            code="symbolify-not-supported",
            hint="train a network without normalization over the row",
        )
    edges = len(list(circuit.active(kan)))
    if edges > LARGEST:
        raise InvalidKan(
            f"the network has {edges} edges, expected at most {LARGEST}",
            code="network-too-large",
            hint="prune the network first",
        )
    _check_rows("rows", rows, kan.n_inputs, LEAST_ROWS)
    if targets is not None:
        _check_rows("targets", targets, kan.n_outputs, len(rows))
        if len(targets) != len(rows):
            raise OptionError(
                f"there are {len(targets)} targets for {len(rows)} rows",
                code="rows-wrong-shape",
                hint="pass one row of targets per row",
            )


def _check_rows(what: str, array: Array, columns: int, least: int) -> None:
    if array.ndim != 2 or array.shape[1] != columns or len(array) < least:
        raise OptionError(
            f"the {what} have shape {list(array.shape)}, expected at least {least} rows with {columns} columns",
            code="rows-wrong-shape",
            hint="pass one column per input, and for targets one column per output",
        )
    if not np.isfinite(array).all():
        raise OptionError(
            f"the {what} have values that are not finite",
            code="rows-not-finite",
            hint="remove rows with NaN or infinity",
        )


class _Search:
    """Present forms, and what they are compared with."""

    def __init__(
        self,
        kan: Kan,
        rows: Array,
        tolerance: float,
        targets: Array | None,
        functions: tuple[Candidate, ...],
        advance: Progress,
    ) -> None:
        self.kan, self.functions, self.advance, self.tolerance = kan, functions, advance, tolerance
        judged = curve_fit.evenly(len(rows), JUDGED)
        x = rows[judged]
        whole = Circuit.of(kan, x, {})
        bad = int((~np.isfinite(whole.y)).any(axis=1).sum())
        if bad:
            raise OptionError(
                f"the network returns values that are not finite for {bad} of {len(whole.y)} rows",
                code="rows-not-finite",
                hint="pass rows for which the network is defined",
            )
        self.judge = Judge.of(whole.y if targets is None else targets[judged])
        self.x = x
        fitted = np.flatnonzero(np.arange(len(x)) % 4 != 3)
        fitted = fitted[curve_fit.evenly(len(fitted), FITTED)]
        # The ends of the inputs keep forms defined on all rows.
        fitted = np.unique(np.concatenate([fitted, x.argmin(axis=0), x.argmax(axis=0)]))
        self.held_out = np.setdiff1d(np.arange(len(x)), fitted)
        self.fit_judge = self.judge.subset(fitted)
        self.circuit = Circuit.of(kan, x[fitted], {})
        self.base = self.judge.error(whole.y)
        self.limit = self.base + tolerance
        self.floor = EXACT if targets is not None else DETAIL * tolerance
        self.exact = targets is not None
        self.left = list(circuit.active(kan))
        self.total = len(self.left)
        self.order: list[tuple[At, float]] = []

    def error(self, tested: Circuit) -> float:
        """The larger error of all rows and of the rows that no fit used; infinite if a form is not defined, or if it
        cancels its own values."""
        whole = tested.on(self.x)
        if not whole.defined() or tested.cancels():
            return float("inf")
        return max(self.judge.error(whole.y), self._held_out_error(whole.y, 0.0))

    def _held_out_error(self, y: Array, without_rows: float) -> float:
        rows = self.held_out
        return self.judge.subset(rows).error(y[rows]) if len(rows) else without_rows

    def score(self, error: float, forms: Forms) -> float:
        """The score of a network, smaller is better."""
        complexity = sum(form.candidate.complexity for form in forms.values())
        return math.log10(max(error, self.floor)) + DECADES * complexity if math.isfinite(error) else math.inf

    def _take(self, at: At, tested: Circuit, error: float) -> None:
        self.circuit = tested
        self.left.remove(at)
        self.order.append((at, error))
        self.advance(self.total - len(self.left), self.total)

    def drop(self) -> None:
        """Replace edges without effect by constants, as long as their share of the tolerance is not used."""
        zero = next((function for function in self.functions if function.name == "0"), None)
        if zero is None:
            return
        damage = []
        for at in self.left:
            values = self.circuit.values(at)
            y = self.circuit.replaced(at, values, np.full(values.shape, values.mean()))
            damage.append((self.fit_judge.error(y), at))
        limit = self.base + ZERO_SHARE * self.tolerance
        for least, at in sorted(damage):
            if least > limit:
                break
            mean = float(self.circuit.values(at).mean())
            tested = self.circuit.with_forms({**self.circuit.forms, at: Form(zero, 1.0, 0.0, 0.0, mean)})
            error = self.error(tested)
            if error <= limit:
                self._take(at, tested, error)

    def place(self) -> None:
        """Replace the other edges: those that a simple function fits first, then those with the smallest damage."""
        order = []
        for at in self.left:
            ranked = self._ranked(at, self._fits(at))
            if ranked:
                order.append(
                    (ranked[0].form.candidate.complexity, ranked[0].damage, at, [each.form for each in ranked])
                )
        for _, _, at, fits in sorted(order, key=lambda entry: entry[:3]):
            best = self._best(at, self._ranked(at, fits))
            if best is not None:
                self._take(at, *best)

    def _fits(self, at: At) -> list[Form]:
        """The form of each function that fits an edge on its own."""
        x, values = self.circuit.sources[at[0]][:, at[1]], self.circuit.values(at)
        forms = (curve_fit.fit(function, x, values) for function in self.functions)
        return [form for form in forms if form is not None]

    def _ranked(self, at: At, forms: list[Form]) -> list[_Ranked]:
        """The forms of an edge by their score without a joint fit, best first."""
        x, values = self.circuit.sources[at[0]][:, at[1]], self.circuit.values(at)
        ranked = []
        for form in forms:
            damage = self.fit_judge.error(self.circuit.replaced(at, values, form.values(x)))
            ranked.append(_Ranked(self.score(damage, {**self.circuit.forms, at: form}), damage, form))
        return sorted((each for each in ranked if math.isfinite(each.score)), key=lambda each: each.score)

    def _best(self, at: At, ranked: list[_Ranked]) -> tuple[Circuit, float] | None:
        """The circuit with the best score after a joint fit, and its error, within the limit."""
        shortlist: list[
            Form
        ] = []  # best of each complexity: before a joint fit, the error says little about simple ones
        for each in ranked:
            if sum(form.candidate.complexity == each.form.candidate.complexity for form in shortlist) < REFITTED:
                shortlist.append(each.form)
        begun = []
        for form in shortlist:
            tested = self.circuit.with_forms({**self.circuit.forms, at: form})
            tested = circuit.refit(tested, self.fit_judge, steps=circuit.FIRST)
            begun.append((self.score(self.fit_judge.error(tested.y), tested.forms), tested))
        best, least = None, math.inf
        for _, tested in sorted(begun, key=lambda entry: entry[0])[:FINISHED]:
            tested = circuit.refit(tested, self.fit_judge)
            error = self.error(tested)
            score = self.score(error, tested.forms)
            if error <= self.limit and score < least - 1e-9:
                best, least = (tested, error), score
        return best

    def revise(self) -> None:
        """Change functions of forms while the score of the network improves."""
        if len(self.circuit.forms) > REVISED:
            return
        for _ in range(SWEEPS):
            changed = False
            for at in sorted(self.circuit.forms):
                present = self.circuit.forms[at].candidate.name
                others = [form for form in self._fits(at) if form.candidate.name != present]
                best = self._best(at, self._ranked(at, others))
                score = self.score(self.error(self.circuit), self.circuit.forms) if best is not None else math.inf
                if best is not None and self.score(best[1], best[0].forms) < score - 0.01:
                    self.circuit, changed = best[0], True
            if not changed:
                return

    def polish(self) -> None:
        """Simple numbers in place of constants, if the error stays."""
        allowed = EXACT if self.exact else DETAIL * self.tolerance
        self.circuit = constants.simplified(self.circuit, self.fit_judge, self.error, self.limit, allowed)

    def result(self) -> Symbolified:
        """The network with the present forms."""
        whole = self.circuit.on(self.x)
        forms = self.circuit.forms
        undefined = []
        for at, form in forms.items():
            layer = self.kan.layers[at[0]]
            if any(term.pre_steps for term in layer.terms):
                continue  # its grid is not in the units of its source
            low, high = (float(end[at[1]]) for end in layer.support().core)
            if not form.defined(low, high):
                undefined.append((at, low, high))
        return Symbolified(
            kan=circuit.network(self.kan, forms),
            replaced=tuple(Replacement(at, forms[at], error) for at, error in self.order),
            left=tuple(self.left),
            base=self.base,
            error=self.judge.error(whole.y),
            held_out=self._held_out_error(whole.y, math.nan),
            undefined=tuple(undefined),
        )


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Form of an edge, the error of the outputs with it before a joint fit, and the score."""

    score: float
    damage: float
    form: Form
