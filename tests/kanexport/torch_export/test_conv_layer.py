"""Tests of `torch_export/conv_layer.py`."""

from typing import Any

import numpy as np
import pytest
import torch

from kanexport.torch_export.borrowed_module import lent
from kanexport.verify import float64_reference
from tests.support.torch_modules import Bells, edge_sums, planned, rows, sums


class Ones(Bells):
    """Functions that do not depend on x, and a straight line."""

    def basis(self, x: Any) -> Any:
        return torch.ones_like(x).repeat_interleave(self.kinds, dim=1)

    def group(self, x: Any, at: int) -> Any:
        return self.prelus[at](self.norms[at](self.base_conv[at](x) + self.spline_conv[at](self.basis(x))))


def test_an_edge_outside_the_picture_is_zero() -> None:
    """phi(0) is not: zeros are put after the functions."""
    module = Bells(2, 3, padding=1)
    whole, plan = planned(module, rows(2, 4, 5))
    (layer,) = plan.layers
    x = rows(2, 4, 5)
    with lent(whole, plan.oracle.dtype):
        (vectors,) = plan.evaluate(x).inputs
        corner = vectors[:, 0, 0]
        ((_, edges, _),) = float64_reference.edges(layer, corner)
    outside = np.array([[1, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=bool).reshape(-1)
    places = edges[:, :18].reshape(len(x), 2, 9, 3)
    assert (places[:, :, outside] == 0).all()
    assert (places[:, :, ~outside] != 0).all()
    np.testing.assert_array_equal(corner[:, 18:], np.broadcast_to(~outside, (len(x), 9)))
    assert (edges[:, 18:][:, outside] == 0).all()
    assert (edges[:, 18:][:, ~outside] != 0).all()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_not_finite_reaches_the_edges_of_its_source_and_no_others(value: float) -> None:
    module = Bells(4, 6, groups=2, padding=1)
    whole, plan = planned(module, rows(4, 5, 6))
    x = rows(4, 5, 6)
    x[0, 1, 2, 3] = value
    with lent(whole, plan.oracle.dtype):
        inputs = plan.evaluate(x).inputs
        for at, (layer, vectors) in enumerate(zip(plan.layers, inputs, strict=True)):
            flat = vectors.reshape(-1, vectors.shape[-1])
            edges = np.concatenate([edges for _, edges, _ in float64_reference.edges(layer, flat)])
            # silu(-inf) is NaN for torch, which is what an edge is too.
            np.testing.assert_array_equal(
                ~np.isfinite(edges), np.broadcast_to(~np.isfinite(flat)[..., None], edges.shape)
            )
            assert np.isfinite(edges).all() == (at == 1)
    result, expected = edge_sums(whole, plan, x), sums(module, x)
    np.testing.assert_array_equal(result[~np.isfinite(expected)], expected[~np.isfinite(expected)])
    assert np.isfinite(result[np.isfinite(expected)]).all()


def test_constants_belong_to_no_source() -> None:
    _, plan = planned(Ones(3, 4, padding=1), rows(3, 5, 6))
    (layer,) = plan.layers
    assert (layer.sources, layer.terms[0].functions) == (27 + 9, 1)
    _, plan = planned(Ones(3, 4), rows(3, 5, 6))
    (layer,) = plan.layers
    assert layer.sources == 27
    assert layer.bias.any()
