"""Error comparison of verification: size and scale of a difference, its row, and the relaxed tolerances."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from kanexport.verify import tolerances
from kanexport.verify.tolerances import Allowance, LargestError, Tolerance, magnitude, relative_change

NAN, INF = math.nan, math.inf


def never() -> float:
    raise AssertionError("nothing is beyond the tolerance, so nothing is to be measured")


def allowed(limit: float = 1e-5, *, scale: float = 0.0, change: float | None = None, excuse: float = 32.0) -> Allowance:
    return Allowance(limit, scale, never if change is None else lambda: [change], excuse)


def place(at: tuple[int, ...]) -> str:
    return "-".join(map(str, at))


def compared(original: object, expected: object, allowance: Allowance | None = None) -> LargestError:
    error = LargestError()
    error.add(np.array(original, float), np.array(expected, float), allowance or allowed(change=0.0), place)
    return error


def test_rounding_is_drawn_until_it_excuses_the_error() -> None:
    drawn = []

    def draws() -> Iterator[float]:
        for change in (1e-4, 3e-4, 2e-4, 9e-4):
            drawn.append(change)
            yield change

    for supplied, count, change, excused in ((1.0001, 0, 0, True), (1.009, 2, 3e-4, True), (1.5, 4, 9e-4, False)):
        drawn.clear()
        error = compared([supplied], [1.0], Allowance(1e-3, 0.0, draws, 32.0))
        assert (len(drawn), error.condition, error.excess <= 1) == (count, change, excused)
    excused = compared([1.5], [1.0], allowed(0.1, change=0.2, excuse=2.0))
    assert (excused.excess, excused.condition) == (pytest.approx(0.5 / (0.1 + 2.0 * 0.2)), 0.2)


def test_a_difference_is_relative_to_the_largest_magnitude_which_a_scale_bounds_from_below() -> None:
    error = compared([[1.0, 2.0], [-7.75, 4.0]], [[1.0, 2.25], [-8.0, 4.0]])
    assert (error.max_abs, error.max_rel, error.where, error.condition) == (0.25, 0.25 / 8, "0-1", 0)
    assert error.excess == pytest.approx(0.25 / 8 / 1e-5)
    assert compared([1.0], [0.5], allowed(scale=4.0, change=0.0)).max_rel == 0.125
    assert compared([10.0], [8.0], allowed(scale=4.0, change=0.0)).max_rel == 0.25
    assert compared([0.0, 0.0], [0.0, 0.0], allowed()) == LargestError(where="0")
    wrong = compared([0.0, 1e-300], [0.0, 0.0])
    assert (wrong.max_abs, wrong.max_rel, wrong.excess) == (1e-300, INF, INF)


def test_what_is_not_finite_must_be_the_same() -> None:
    pairs = [(1.0, NAN), (NAN, 1.0), (INF, 1.0), (1.0, INF), (INF, -INF), (NAN, INF), (INF, NAN), (-INF, INF)]
    for original, expected in pairs:
        error = compared([5.0, original], [5.0, expected])
        assert (error.max_abs, error.max_rel, error.excess) == (INF, INF, INF)
        assert error.where == f"1: {original}, expected {expected}"
    for value in (NAN, INF, -INF):
        assert compared([value], [value], allowed()) == LargestError()
        beside = compared([value, 3.0], [value, 4.0])
        assert (beside.max_abs, beside.max_rel, beside.where) == (1.0, 0.25, "1")
    assert compared(np.zeros((0, 3)), np.zeros((0, 3)), allowed()) == LargestError()


def test_comparisons_add_up_to_the_worst_of_each() -> None:
    error = LargestError()
    error.add(np.array([100.0]), np.array([101.0]), allowed(0.1), lambda _: "large")
    error.add(np.array([1.0]), np.array([2.0]), allowed(0.1, change=0.3), lambda _: "relative")
    error.add(np.array([1.0]), np.array([1.5]), allowed(0.1, change=0.1), lambda _: "small")
    assert (error.max_abs, error.max_rel, error.where) == (1.0, 0.5, "relative")
    assert error.condition == 0.3
    assert error.excess == pytest.approx(max(0.5 / (0.1 + 32 * 0.3), (1 / 3) / (0.1 + 32 * 0.1)))
    error.add(np.array([1.0]), np.array([2.0]), allowed(0.1, change=0.0), lambda _: "as large, and later")
    assert error.where == "as large, and later"


def test_changes_and_magnitudes_look_at_finite_values() -> None:
    assert magnitude(np.array([1.0, -3.0, NAN, INF])) == 3.0
    assert magnitude(np.array([NAN])) == magnitude(np.zeros(0)) == 0.0
    assert relative_change(np.array([4.0, NAN, 1.0]), np.array([3.0, 9.0, INF])) == 0.25
    assert relative_change(np.array([0.0]), np.array([1.0])) == 0.0
    assert relative_change(np.array([NAN]), np.array([1.0])) == 0.0


def test_tolerances_belong_together() -> None:
    usual = Tolerance.for_graph(tolerances.OUTPUT_TOLERANCE, "float32")
    assert (usual.outputs, usual.edges, usual.excuse) == (1e-5, pytest.approx(5e-5), 32.0)
    assert usual.of_reference() == pytest.approx(1e-4)
    assert [jitter.size for jitter in usual.jitters] == [2.0**-24] * tolerances.DRAWS
    assert len({jitter.seed for jitter in usual.jitters}) == tolerances.DRAWS
    strict, loose = Tolerance.for_graph(1e-6, "float64"), Tolerance.for_graph(1e-3, "float64")
    assert (strict.edges, strict.excuse) == (pytest.approx(5e-6), pytest.approx(3.2))
    assert (loose.edges, loose.excuse) == (pytest.approx(5e-3), 32.0)
    assert strict.jitters[0].size == 2.0**-53
