"""Statistics over rows, compared with numpy on all rows at once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kanserve.analysis import reduce

FEWER = settings(max_examples=settings.default.max_examples // 5)
LEVELS = (0.0, 0.25, 0.5, 1.0)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3))
cubes = shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-1e3, 1e3, width=32)))


def figures(values: np.ndarray, step: int, names: tuple[str, ...] = reduce.ALL) -> dict[str, np.ndarray]:
    item = reduce.Reducer(names, values.shape[1:], LEVELS, 5)
    for at in range(0, len(values), step):
        item.add(values[at : at + step])
    return dict(item.result())


@FEWER
@given(cubes, st.integers(1, 9))
def test_figures_are_those_of_all_values_in_pieces_too(values: np.ndarray, step: int) -> None:
    result, wide = figures(values, step), values.astype(np.float64)
    close = {"rtol": 1e-5, "atol": 1e-2}
    np.testing.assert_allclose(result["mean"], wide.mean(axis=0), **close)
    np.testing.assert_allclose(result["mean_magnitude"], np.abs(wide).mean(axis=0), **close)
    np.testing.assert_array_equal(result["min"], values.min(axis=0))
    np.testing.assert_array_equal(result["max"], values.max(axis=0))
    np.testing.assert_allclose(result["quantiles"], np.quantile(wide, LEVELS, axis=0), **close)
    if len(values) > 1:
        np.testing.assert_allclose(result["std"], wide.std(axis=0, ddof=1), **close)
    else:
        assert np.isnan(result["std"]).all()


def test_the_histogram_is_numpys() -> None:
    values = np.random.default_rng(2).normal(size=(500, 2, 3))
    values[:, 1, 1] = 4.0
    counts, bounds = reduce.histogram(values, 8)
    for i, j in np.ndindex(2, 3):
        expected, edges = np.histogram(values[:, i, j], bins=8)
        np.testing.assert_array_equal(counts[:, i, j], expected)
        np.testing.assert_allclose(bounds[:, i, j], edges)


def test_what_is_not_finite_is_seen_and_not_counted() -> None:
    values = np.array([[1.0], [np.nan], [3.0], [np.inf]])
    result = figures(values, 1)
    assert np.isnan([result[name][0] for name in ("mean", "mean_magnitude", "std", "min", "max")]).all()
    assert result["histogram"].sum() == 2
    np.testing.assert_array_equal(result["histogram_bounds"][[0, -1], 0], [1, 3])


def test_of_no_rows_there_are_no_figures() -> None:
    result = figures(np.zeros((0, 2, 3), np.float32), 1)
    assert {name: array.shape for name, array in result.items()} == {
        **dict.fromkeys(("mean", "mean_magnitude", "std", "min", "max"), (2, 3)),
        "quantiles": (4, 2, 3),
        "histogram": (5, 2, 3),
        "histogram_bounds": (6, 2, 3),
    }
    assert np.isnan(result["mean"]).all()
    assert not result["histogram"].any()
