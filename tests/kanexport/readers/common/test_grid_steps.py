"""Grid spacings derived from rounded grids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.errors import InvalidKan, OptionError
from kanexport.options import KnownFacts, Options
from kanexport.readers.common import grid_steps

# Ranges as people write them, at most two decimals.
ENDS = st.integers(-1000, 1000).map(lambda n: n / 100)


def starts(low: float, high: float, cells: int, kind: type) -> np.ndarray:
    """As inkan and flashkan store them."""
    step = (high - low) / cells
    stored = np.arange(cells + 3, dtype=kind) * kind(step) + kind(low) - kind(3 * step)
    return stored.astype(np.float64)


@given(ENDS, ENDS, st.integers(2, 40), st.sampled_from([np.float32, np.float64]))
def test_a_denominator_is_exact_after_any_rounding_of_centres(
    first: float, last: float, count: int, kind: type
) -> None:
    centres = np.linspace(first, last, count).astype(kind).astype(np.float64)
    assert grid_steps.between_centres(centres) == (last - first) / (count - 1)


@given(ENDS, st.integers(1, 1500).map(lambda n: n / 100), st.integers(1, 60), st.sampled_from([np.float32, np.float64]))
def test_a_cell_width_is_exact_after_any_rounding_of_starts(low: float, width: float, cells: int, kind: type) -> None:
    high = round(low + width, 2)
    result = grid_steps.between_starts(starts(low, high, cells, kind))
    # Another pair of decimals may give the same float32 starts far from zero.
    assert result == pytest.approx((high - low) / cells, rel=1e-15 if kind is np.float64 or width > 1 else 1e-5)


def test_the_usual_ranges_are_exact() -> None:
    for low, high in ((-1, 1), (-2, 2), (0, 1), (-1.2, 0.2), (-3.3, 1.7), (-0.1, 0.9), (0, 10)):
        for cells in (1, 2, 3, 5, 7, 8, 10, 16, 20, 50, 100, 200):
            assert grid_steps.between_starts(starts(low, high, cells, np.float32)) == (high - low) / cells


def test_other_starts_have_their_mean_distance() -> None:
    """A range of many decimals, and starts that are not uniform."""
    low, high = -np.pi, np.sqrt(7)
    result = grid_steps.between_starts(starts(low, high, 9, np.float32))
    assert result == pytest.approx((high - low) / 9, rel=1e-6)
    assert grid_steps.between_starts(np.array([0.0, 1.0, 2.5, 3.0, 4.0])) == 1.0


def test_a_single_centre_asks_for_the_denominator() -> None:
    with pytest.raises(OptionError, match="single center") as caught:
        grid_steps.denominator(np.array([0.5]), Options(KnownFacts()))
    assert "denominator=" in caught.value.hint
    assert grid_steps.denominator(np.array([0.5]), Options(KnownFacts({"denominator": "0.25"}))) == 0.25


def test_starts_that_are_no_grid_are_refused() -> None:
    for bad in ([0, 1, 2], [0, 1, np.nan, 3], [0, 1, 1, 2], [3, 2, 1, 0], [0, 1, 2, np.inf]):
        with pytest.raises(InvalidKan, match="starts"):
            grid_steps.cubic_step(np.array(bad, dtype=float), Options(KnownFacts()))
