"""Splines on fine grids: rows of coefficients of the grid interval of each value, where that is faster."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from kanexport.bases.bspline import BSpline
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.verify import verify
from kanexport.verify.verify import near_knot_excess
from tests.kanexport.lowering.test_near_uniform_knots import own, rounded
from tests.kanexport.lowering.test_spline_forms import layer, operators, responses, uneven


def near(kan: Kan) -> bytes:
    """The serving graph with knots that count as uniform, after its verification."""
    created = lower.lower(kan, "float32", near=range(len(kan.layers)))
    assert near_knot_excess(verify.verify(kan, created, "float32").verification) == ""
    return created.model


@pytest.mark.parametrize("grid", [rounded, own])
def test_a_fine_grid_gathers_the_coefficients_of_an_interval(grid: Callable[[int, int], BSpline]) -> None:
    kan = Kan(40, (layer(grid(40, 50), 64),))
    model = near(kan)
    assert operators(model).count("Gather") == 2
    numbers = [int(np.prod(item.dims)) for item in onnx.load_from_string(model).graph.initializer]
    assert sum(numbers) < 1.15 * 40 * 64 * (50 + 3 + 1)


def test_each_row_is_the_same_in_any_batch_and_nan_spreads_as_before() -> None:
    entry = layer(rounded(40, 50), 10)
    model = near(Kan(40, (entry,)))
    x = np.random.default_rng(0).uniform(-1.4, 1.4, size=(33, 40)).astype(np.float32)
    x[3, 5], x[4, 6], x[5, 7] = 1e30, -1e30, 0.5
    many = responses(model, x)[0]
    assert many.tobytes() == b"".join(responses(model, x[at : at + 1])[0].tobytes() for at in range(len(x)))
    x[0, 1], x[1, 2], x[2, 3] = np.nan, np.inf, -np.inf
    spoilt = responses(model, x)[0]
    assert spoilt[3:].tobytes() == many[3:].tobytes()


def test_coarse_grids_many_destinations_and_uneven_knots_keep_their_form() -> None:
    for basis, destinations in ((rounded(40, 8), 64), (rounded(40, 50), 300), (uneven(40, 50), 64)):
        model = lower.lower(Kan(40, (layer(basis, destinations),)), "float32", near=(0,)).model
        assert "Gather" not in operators(model)
