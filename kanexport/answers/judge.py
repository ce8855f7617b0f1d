"""Something that answers, held against what the trained model answered, row by row.

An error is relative to the largest answer of its own row, or to what is usual among the rows that
the user chose, whichever is larger: rows far outside of the data may give enormous answers, and
would hide everything else. What rounding alone changes is excused as in `proof/tolerance.py`; where
that is so much that an answer says nothing, the row is left out, counted and told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.answers.rows import FORMS, Answers
from kanexport.errors import AnswersDiffer, OptionError
from kanexport.form.ir import Kan
from kanexport.operators import precision
from kanexport.proof.evaluate import Jitter, Trace
from kanexport.proof.evaluate import evaluate as exactly
from kanexport.proof.tolerance import CONDITION, DRAWS, OUTPUT_TOLERANCE, OVERFLOW

Array = npt.NDArray[np.float64]
Evaluate = Callable[[Array, Jitter | None], Trace]

# Relative, by what the model computed in. Libraries' own float32 runs are off by up to 9e-6 on real checkpoints.
ALLOWED = {"float32": 5e-5, "float64": 1e-8}
HOPELESS = 16.0  # times what one draw of rounding excuses: no other draw excuses that
LOOSE = 1e-2  # an allowance beyond it would excuse anything


@dataclass(frozen=True, slots=True)
class Match:
    """How far answers are from the trained model's: the largest error over the rows compared, absolute and
    relative, where it is, and how many times the allowance it is; rows compared, and left out; of the rows whose
    answers are numbers (those that the user chose, where there are such), how many were compared, of how many."""

    max_abs: float
    max_rel: float
    excess: float
    where: str
    rows: int
    left_out: int
    telling: int
    numbers: int

    @property
    def enough(self) -> bool:
        """Whether at least half of the rows with numbers were compared."""
        return 0 < self.numbers <= 2 * self.telling

    @property
    def fits(self) -> bool:
        """Whether every row that was compared is within its allowance, and most were."""
        return self.enough and self.excess <= 1


def allowed(answers: Answers, dtype: str, tolerance: float) -> float:
    """How far a graph of `dtype` may be from the answers, relative; `tolerance` as the user gave it."""
    coarser = "float32" if "float32" in (answers.dtype, dtype) else "float64"
    return ALLOWED[coarser] * tolerance / OUTPUT_TOLERANCE


def match(answers: Answers, given: Array, evaluate: Evaluate, dtype: str, tolerance: float) -> Match:
    """Hold answers `given` [B, ...] against the trained model's. `evaluate`: the meaning in float64 of what
    gave them, which tells what rounding of `dtype` changes; `tolerance`: relative. Raises OptionError where
    the shapes are different."""
    y = answers.y.reshape(len(answers.y), -1)
    flat = given.reshape(len(given), -1)
    if flat.shape != y.shape:
        raise unfit(answers, f"answers of {y.shape[1]} numbers a row", f"gives {flat.shape[1]}")
    scale = _scale(y, answers.usual)
    error, absolute = _errors(_as(flat, answers.dtype), y, scale)
    bound = np.full(error.shape, tolerance)
    off, keep = np.flatnonzero(error > tolerance), np.ones(len(y), dtype=bool)
    if len(off):
        exact = evaluate(answers.x, None)
        some = _Off(answers.x[off], exact.y.reshape(len(y), -1)[off], scale[off], error[off])
        bound[off] += CONDITION * _change(
            evaluate, some, max(map(precision.rounding, (dtype, answers.dtype))), tolerance
        )
        keep = exact.peak < OVERFLOW
    keep &= bound <= LOOSE
    if not keep.any():
        return Match(0.0, 0.0, 0.0, "", 0, len(y), 0, int(_numbers(answers).sum()))
    excess = np.where(keep, error / bound, -1)
    worst = int(excess.argmax())
    kept = np.flatnonzero(keep)
    where = _where(worst, flat, y, answers)
    largest = float(absolute[kept].max()), float(error[kept].max())
    numbers = _numbers(answers)
    told = int((numbers & keep).sum()), int(numbers.sum())
    return Match(*largest, float(excess[worst]), where, len(kept), int((~keep).sum()), *told)


def _numbers(answers: Answers) -> npt.NDArray[np.bool_]:
    """The rows [B] with a finite answer; of those that the user chose, where there are such."""
    some = np.asarray(np.isfinite(answers.y.reshape(len(answers.y), -1)).any(axis=1))
    chosen = some & answers.usual
    return chosen if chosen.any() else some


def require(found: Match, answers: Answers, what: str) -> None:
    """Raises AnswersDiffer where the answers do not fit; `what` gave the others."""
    if not found.enough:
        raise too_few(found, answers)
    if not found.fits:
        raise AnswersDiffer(
            f"{what} differs from what the trained model answered by {found.max_rel:.2e} relative: {found.where}",
            hint="nothing was written; export the module itself with --module, or say more with --option",
        )


def reading(kan: Kan, answers: Answers, tolerance: float) -> Match:
    """A reading in float64, held against the trained model's answers. Raises OptionError where the shapes differ."""
    width = answers.x[0].size
    if width != kan.n_inputs:
        raise unfit(answers, f"rows of {width} numbers", f"takes {kan.n_inputs}")
    flat = dataclasses.replace(answers, x=answers.x.reshape(len(answers.x), -1))
    exact = exactly(kan, flat.x)

    def meaning(x: Array, jitter: Jitter | None) -> Trace:
        return exact if jitter is None else exactly(kan, x, jitter=jitter)

    return match(flat, exact.y, meaning, answers.dtype, tolerance)


def distinct(answers: Answers) -> int:
    """How many different numbers the answers have: a few of them, such as the ends of a sigmoid, fit many models."""
    y = answers.y.reshape(len(answers.y), -1)
    some = y[answers.usual] if answers.usual.any() else y
    return len(np.unique(some[np.isfinite(some)].astype(np.float32)))


def too_few(found: Match, answers: Answers) -> AnswersDiffer:
    """Most of the answers say nothing."""
    why = f"; rounding alone changes the others by more than {LOOSE:g}" if found.numbers else ""
    return AnswersDiffer(
        f"of {found.numbers} rows of {answers.name} with finite answers, {found.telling} can be compared, which is too "
        f"few{why}",
        hint="record answers for rows like the data",
    )


def unfit(answers: Answers, has: str, model: str) -> OptionError:
    """Answers of another shape than the model's."""
    return OptionError(f"--answers {answers.name} has {has}, the model {model}", hint=FORMS)


def _scale(y: Array, usual: npt.NDArray[np.bool_]) -> Array:
    """[B]: what errors of each row are relative to."""
    peaks = np.where(np.isfinite(y), np.abs(y), 0).max(axis=1, initial=0)
    some = peaks[usual & (peaks > 0)] if (usual & (peaks > 0)).any() else peaks[peaks > 0]
    return np.asarray(np.maximum(peaks, np.median(some) if len(some) else 1.0))


def _as(values: Array, dtype: str) -> Array:
    """Beyond float32 there is infinity."""
    with np.errstate(over="ignore"):
        return values.astype(dtype).astype(np.float64)


def _errors(given: Array, y: Array, scale: Array) -> tuple[Array, Array]:
    """[B] relative and absolute: infinite where one is not finite and the other is, or is another."""
    finite = np.isfinite(y) & np.isfinite(given)
    same = finite | (np.isnan(y) & np.isnan(given)) | (y == given)
    with np.errstate(invalid="ignore"):
        apart = np.where(finite, np.abs(given - y), np.where(same, 0.0, np.inf))
    absolute = apart.max(axis=1)
    return absolute / scale, absolute


@dataclass(frozen=True, slots=True, eq=False)
class _Off:
    """Rows that are not within the tolerance: `x`, what they mean in float64, and, relative to `scale` [B], by how
    much they are off."""

    x: Array
    y: Array
    scale: Array
    error: Array


def _change(evaluate: Evaluate, rows: _Off, size: float, tolerance: float) -> Array:
    """[B]: by how much rounding nodes and weights by `size` changes each row, relative. Where one draw shows that
    no other could excuse some row, that is all."""
    change = np.zeros(len(rows.x))
    with np.errstate(invalid="ignore"):
        for seed in range(DRAWS):
            moved = evaluate(rows.x, Jitter(size, seed)).y.reshape(len(rows.x), -1)
            apart = np.where(np.isfinite(moved) & np.isfinite(rows.y), np.abs(moved - rows.y), 0.0)
            change = np.maximum(change, apart.max(axis=1) / rows.scale)
            most = HOPELESS * (tolerance + CONDITION * change)
            if ((rows.error > most) & (most <= LOOSE)).any():
                break
    return change


def _where(row: int, given: Array, y: Array, answers: Answers) -> str:
    """The worst answer of a row, for people."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(_as(given[row], answers.dtype) - y[row])
    column = int(np.where(np.isnan(apart), np.inf, apart).argmax())
    return f"row {row}, output {column}: {given[row, column]:.6g} where the model answered {y[row, column]:.6g}"
