"""Batch invariance of axis sums: the same bits for a single row, the first row, and a row among many."""

import numpy as np
import pytest

from kanexport.graph.builder import Graph
from kanexport.shared.ort import onnxruntime
from tests.support.tiers import spread

ROWS = 24
SIZES = [*range(1, 14), 30, 33, 129, 784]
LAYOUTS = {  # the shape after the batch, and the axis, of K entries
    "the last of two": (lambda count: (count,), 1),
    "before the last": (lambda count: (count, 5), 1),
    "before the last, of one": (lambda count: (count, 1), 1),
    "the last of three": (lambda count: (3, count), 2),
    "before the last of four": (lambda count: (3, count, 2), 2),
}


@spread("dtype,keepdims", [("float32", False), ("float32", True), ("float64", False), ("float64", True)], 1)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rows_sum_is_the_same_in_any_company(layout: str, keepdims: bool, dtype: str) -> None:
    make, axis = LAYOUTS[layout]
    for count in SIZES:
        shape = make(count)
        g = Graph("sums", dtype)
        total = g.sum(g.input("x", *shape), axis=axis, keepdims=keepdims)
        rows = np.random.default_rng(count).normal(size=(ROWS, *shape)).astype(dtype)
        expected = rows.astype(np.longdouble).sum(axis=axis, keepdims=keepdims)
        session = onnxruntime.InferenceSession(g.build({"y": (total, expected.shape[1:])}))
        result = session.run(None, {"x": rows})[0]
        assert np.abs(result - expected).max() <= 8 * count * np.finfo(dtype).eps
        for start, stop in [(at, at + 1) for at in range(0, ROWS, 5)] + [(0, 2), (1, 4), (3, 11), (7, ROWS)]:
            part = session.run(None, {"x": rows[start:stop].copy()})[0]
            np.testing.assert_array_equal(part, result[start:stop], err_msg=f"{count}, {start}:{stop}")
