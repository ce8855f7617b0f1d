"""Facts of edges hold for values and slopes on dense points, and are close to them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline, Repeated
from kanexport.bases.gaussian import Gaussian
from kanexport.certify import curves
from kanexport.certify.edges import Edges, Table
from kanexport.certify.piece import Piece
from kanexport.errors import InvalidKan
from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.ir.model import BasisTerm, Layer

SOURCES, DESTINATIONS = 3, 4


def layer(degree: int, *, seed: int = 0, knots: np.ndarray | None = None) -> Layer:
    """Layer with random splines of a degree on uneven knots, and SiLU."""
    rng = np.random.default_rng(seed)
    if knots is None:
        knots = np.cumsum(rng.uniform(0.05, 0.6, (SOURCES, 6 + 2 * degree)), axis=1) - 2
    spline = BSpline(knots, degree)
    shape = (SOURCES, DESTINATIONS)
    return Layer(
        terms=(
            BasisTerm(spline, rng.normal(size=(*shape, spline.functions))),
            BasisTerm(Activation(ACTIVATIONS["silu"]), rng.normal(size=(*shape, 1))),
        ),
        mask=np.ones(shape) - (rng.random(shape) < 0.1),
        bias=rng.normal(size=DESTINATIONS),
        nan_spreads=np.ones(shape, dtype=bool),
    )


@pytest.mark.parametrize("degree", [1, 2, 3, 4, 5])
def test_the_facts_hold_and_are_close(degree: int) -> None:
    """The box reaches beyond the knots on both sides."""
    edges = Edges.of(layer(degree))
    low, high = np.full(SOURCES, -4.0), np.full(SOURCES, 6.0)
    x = np.sort(np.random.default_rng(1).uniform(low, high, (40_000, SOURCES)), axis=0)
    values = edges.values(x)
    slopes = np.diff(values, axis=0) / np.diff(x, axis=0)[:, :, None]
    lowest, highest, least, most = Table.of(edges, low, high).facts()
    assert (lowest <= values.min(axis=0)).all()
    assert (highest >= values.max(axis=0)).all()
    noise = 1e-6 * np.abs(slopes).max()
    assert (least <= slopes.min(axis=0) + noise).all()
    assert (most >= slopes.max(axis=0) - noise).all()
    assert (highest - lowest <= 1.02 * np.ptp(values, axis=0) + 1e-9).all()
    assert (most - least <= 1.1 * np.ptp(slopes, axis=0) + 1e-6).all()


@pytest.mark.parametrize("degree", [1, 2, 3])
@pytest.mark.parametrize("width", [0.0, 1e-7, 0.03, 1.0, 5.0])
def test_lines_hold_on_intervals(degree: int, width: float) -> None:
    edges, rng = Edges.of(layer(degree, seed=degree)), np.random.default_rng(2)
    low, high = np.full(SOURCES, -4.0), np.full(SOURCES, 6.0)
    table = Table.of(edges, low, high)
    start = rng.uniform(low, high - width, (50, SOURCES))
    ends = edges.values(start), edges.values(start + width)
    inside = start[:, None] + width * np.linspace(0, 1, 201)[:, None]
    values = edges.values(inside.reshape(-1, SOURCES)).reshape(50, 201, SOURCES, DESTINATIONS)
    steep = edges.slopes(inside.reshape(-1, SOURCES)).reshape(values.shape)
    for i in range(SOURCES):
        piece = Piece.of(table, i, (start[:, i], start[:, i] + width), (ends[0][:, i], ends[1][:, i]))
        slope, rest_low, rest_high = piece.line()
        rest = values[:, :, i] - slope[:, None] * (inside[:, :, i] - piece.middle[:, None])[:, :, None]
        assert (rest >= rest_low[:, None]).all()
        assert (rest <= rest_high[:, None]).all()
        if degree > 1:
            assert (steep[:, :, i] >= piece.down[:, None]).all()
            assert (steep[:, :, i] <= piece.up[:, None]).all()
        flat_low, flat_high = piece.rest(np.zeros_like(slope))
        assert (rest_high - rest_low <= (flat_high - flat_low) + np.abs(slope) * width + 1e-12).all()


@pytest.mark.parametrize("name", [*curves.BASE, *curves.EDGE])
def test_bounds_of_smooth_functions(name: str) -> None:
    curve = {**curves.EDGE, **curves.BASE}[name]
    ends = np.linspace(-12, 12, 97)
    for low, high in itertools.pairwise(ends):
        x = np.linspace(low, high, 401)
        step = np.diff(x)
        slope = curve.slope(x)
        second = np.diff(slope) / step
        third = np.diff(second) / step[1:]
        scale = np.abs(curve.value(x)).max() + 1
        difference = np.diff(curve.value(x)) / step - (slope[1:] + slope[:-1]) / 2
        assert np.abs(difference).max() <= 1e-3 * scale
        a, b = np.array([low]), np.array([high])
        assert np.abs(slope).max() <= curve.slope_limit(a, b)[0] * (1 + 1e-12)
        assert np.abs(second).max() <= curve.second(a, b)[0] + 1e-9 * scale
        assert np.abs(third).max() <= curve.third(a, b)[0] + 1e-6 * scale


def test_other_functions_are_refused() -> None:
    known = layer(3)
    other = BasisTerm(Gaussian(np.linspace(-2, 2, 5), 1.0), np.ones((SOURCES, DESTINATIONS, 5)))
    repeated = BSpline(np.tile([0.0, 1, 2, 2, 2, 3, 4, 5], (SOURCES, 1)), 2, Repeated.TERM)
    steps = BasisTerm(repeated, np.ones((SOURCES, DESTINATIONS, 5)))
    for term, message in ((other, "the basis gaussian has no known bounds"), (steps, "repeated or decreasing knots")):
        changed = Layer((term,), known.mask, known.bias, known.nan_spreads)
        with pytest.raises(InvalidKan, match=message) as caught:
            Edges.of(changed)
        assert caught.value.code == "certificate-not-supported"
