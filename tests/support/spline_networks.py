"""Networks of B-splines with random numbers, for the tests of certificates."""

from __future__ import annotations

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC
from kanexport.ir.model import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.ir.steps import Affine, Product, Step

SOURCES, DESTINATIONS = 3, 4


def spline_layer(degree: int, *, seed: int = 0, knots: np.ndarray | None = None) -> Layer:
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


def random_network(seed: int) -> Kan:
    """Network of splines on uneven or uniform knots with symbolic edges, affine steps and products."""
    rng = np.random.default_rng(seed)
    degree = int(rng.integers(1, 5))
    inputs, *widths = (int(n) for n in rng.integers(1, 5, 3 + (seed > 7)))
    layers: list[Layer] = []
    for destinations in widths:
        sources = Kan(inputs, tuple(layers)).n_outputs if layers else inputs
        shape, count = (sources, destinations), int(rng.integers(1, 8)) + 2 * degree + 1
        knots = np.tile(np.linspace(-1.7, 1.5, count), (sources, 1))
        if seed % 2:
            knots = np.cumsum(rng.uniform(0.05, 0.8, (sources, count)), axis=1) - 2
        spline = BSpline(knots.astype(np.float32).astype(np.float64), degree)
        base = ("silu", "tanh", "sin", "identity")[seed % 4]
        terms = (
            BasisTerm(spline, rng.normal(size=(*shape, spline.functions)).astype(np.float32).astype(np.float64)),
            BasisTerm(Activation(ACTIVATIONS[base]), rng.normal(size=(*shape, 1))),
        )
        name = ("sin", "exp", "x^2", "x^3", "cos", "tanh")[seed % 6]
        symbolic = (SymbolicEdge(0, 0, SYMBOLIC[name], 0.7, 0.1, 0.5, -0.2, 1.0),) if seed % 3 == 0 else ()
        step = Affine(rng.normal(size=destinations), rng.normal(size=destinations))
        steps: tuple[Step, ...] = (step,) if seed % 5 == 0 else ()
        if destinations > 2 and seed % 2 == 0:
            steps = (*steps, Product((destinations - 1, 1) if seed % 4 else (1, 2, *[1] * (destinations - 3))))
        mask, bias = (rng.random(shape) > 0.2).astype(float), rng.normal(size=destinations)
        layers.append(Layer(terms, mask, bias, np.ones(shape, dtype=bool), symbolic, post_steps=steps))
    return Kan(inputs, tuple(layers))
