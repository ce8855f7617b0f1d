"""Indices, and views of constants and of values."""

import numpy as np

from kanexport.ccode.nodes import FLOAT, Constant, Flat, Given, Index, Selected, View, regular, reshaped, selected


def test_regular_indices_have_steps() -> None:
    assert str(Index.of("i") + Index.of("i").times(-1)) == "0"
    for indices, steps in (
        ([3], (0,)),
        ([1, 3, 5], (2,)),
        ([[0, 4], [1, 5]], (1, 4)),
        ([2, 1, 0], (-1,)),
        ([0, 1, 3], None),
        ([], None),
    ):
        assert regular(np.array(indices, dtype=np.int64)) == steps


def test_selections_of_constants_and_axes_of_one_entry_need_no_copy() -> None:
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    indices = np.array([[0, 3], [1, 4]])
    part = selected(Constant.of(array), 0, indices)
    assert isinstance(part, Constant)
    assert np.shares_memory(part.array, array)
    np.testing.assert_array_equal(part.array, np.take(array, indices, axis=0))
    other = selected(Constant.of(array), 0, np.array([0, 1, 5]))
    assert isinstance(other, Constant)
    np.testing.assert_array_equal(other.array, array[[0, 1, 5]])
    value = Given((1, 6), FLOAT, "x")
    assert isinstance(reshaped(value, (1, 6, 1)), View)
    assert isinstance(reshaped(value, (1, 2, 3)), Flat)
    assert reshaped(value, (1, 6)) is value
    assert isinstance(selected(value, 1, np.array([0, 1, 5])), Selected)
