"""The intermediate representation: constructors reject invalid values."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.errors import InvalidKan
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.ir.steps import Affine, Product, Select

SILU = Activation(elementwise.activation("silu"))
SIN = elementwise.symbolic("sin")


def spline(n: int = 2) -> BSpline:
    return BSpline(np.tile(np.arange(9.0), (n, 1)), 3)


def layer(n: int = 2, m: int = 3, **changes: Any) -> Layer:
    terms = (BasisTerm(spline(n), np.ones((n, m, 5))), BasisTerm(SILU, np.ones((n, m, 1))))
    shape = (n, m)
    values = {"terms": terms, "mask": np.ones(shape), "bias": np.zeros(m), "nan_spreads": np.zeros(shape, bool)}
    return Layer(**{**values, **changes})


def edge(**changes: Any) -> SymbolicEdge:
    values = {"source": 0, "destination": 0, "function": SIN, "a": 1.0, "b": 0.0, "c": 1.0, "d": 0.0, "mask": 1.0}
    return SymbolicEdge(**{**values, **changes})


def spoilt(shape: tuple[int, ...], value: float = np.nan) -> np.ndarray:
    array = np.ones(shape)
    array[(-1,) * len(shape)] = value
    return array


BAD_LAYERS: dict[str, tuple[Callable[[], Layer], str]] = {
    "no sources": (lambda: layer(mask=np.ones((0, 3))), "sources and destinations"),
    "mask of one axis": (lambda: layer(mask=np.ones(3)), "sources and destinations"),
    "bias too short": (lambda: layer(bias=np.zeros(2)), "bias has shape"),
    "mask NaN": (lambda: layer(mask=spoilt((2, 3))), r"mask at \[1, 2\] is nan"),
    "bias infinite": (lambda: layer(bias=spoilt((3,), np.inf)), r"bias at \[2\] is inf"),
    "coefficient NaN": (
        lambda: layer(terms=(BasisTerm(spline(), spoilt((2, 3, 5))),)),
        r"bspline coefficient at \[1, 2, 4\] is nan \(1 of 30",
    ),
    "coefficient shape": (lambda: layer(terms=(BasisTerm(spline(), np.ones((3, 2, 5))),)), "expected"),
    "coefficient count": (lambda: layer(terms=(BasisTerm(SILU, np.ones((2, 3, 2))),)), "expected"),
    "knots for other sources": (
        lambda: layer(terms=(BasisTerm(spline(4), np.ones((2, 3, 5))),)),
        "has 4 sources, the layer has 2",
    ),
    "edge outside": (lambda: layer(symbolic=(edge(source=2),)), "outside"),
    "edge negative": (lambda: layer(symbolic=(edge(destination=-1),)), "outside"),
    "edge NaN": (lambda: layer(symbolic=(edge(c=np.nan),)), "not finite"),
    "edge mask infinite": (lambda: layer(symbolic=(edge(mask=np.inf),)), "not finite"),
    "edge twice": (lambda: layer(symbolic=(edge(), edge(a=2.0))), "more than one"),
}


@pytest.mark.parametrize("name", BAD_LAYERS)
def test_invalid_layers(name: str) -> None:
    make, text = BAD_LAYERS[name]
    with pytest.raises(InvalidKan, match=text):
        make()


def test_layers_that_do_not_chain() -> None:
    for layers, text in (
        ((), "the network has no layer"),
        ((layer(3, 2),), "layer 0 has 3 sources, but its input has 2"),
        ((layer(2, 3), layer(2, 1)), "layer 1 has 2 sources, but its input has 3"),
        ((layer(2, 3, post_steps=(Product((1, 1)),)),), "do not cover 3"),
        ((layer(2, 3, post_steps=(Product((3, 0)),)),), "do not cover 3"),
        ((layer(2, 3, post_steps=(Affine(np.ones(2), np.ones(2)),)),), "2 values for 3 nodes"),
        ((layer(2, 3, pre_steps=(Select((0, 2)),)),), "column 2 is selected"),
        ((layer(2, 3, pre_steps=(Select((0, -1)),)),), "column -1 is selected"),
        ((layer(2, 3, pre_steps=(Select((0,)),)),), "its input has 1 values"),
    ):
        with pytest.raises(InvalidKan, match=text):
            Kan(2, layers)


def test_invalid_knots_and_affines() -> None:
    for knots, degree in (
        (np.arange(9.0), 3),
        (np.zeros((2, 9)), 3),
        (np.arange(9.0)[None, ::-1], 3),
        (np.array([[0.0, 1, 1, 2, 3, 4, 5, 6]]), 3),
        (np.array([[0.0, 1, 2, 3, np.nan, 5, 6, 7, 8]]), 3),
        (np.array([[0.0, 1, 2, 3, 4, 5, 6, 7, np.inf]]), 3),
        (np.array([[-np.inf, 1, 2, 3, 4, 5, 6, 7, 8]]), 3),
        (np.array([[0.0, 1, 2, 3, 4, 5, 6, 7, 1e31]]), 3),
        (np.arange(9.0)[None], 0),
        (np.arange(9.0)[None], -1),
        (np.arange(7.0)[None], 3),
        (np.zeros((1, 0)), 1),
    ):
        with pytest.raises(InvalidKan):
            BSpline(knots, degree)
    one, square = np.ones(2), np.ones((2, 2))
    for scale, bias in ((one, np.ones(3)), (square, square), (spoilt((2,)), one), (one, spoilt((2,)))):
        with pytest.raises(InvalidKan):
            Affine(scale, bias)
