"""Networks with random numbers: splines, each basis that certificates support, layers of a picture."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from kanexport.bases import Basis, recurrence
from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.bases.fermat import Fermat
from kanexport.bases.fourier import Fourier
from kanexport.bases.gaussian import Gaussian
from kanexport.bases.piecewise_linear import Hats
from kanexport.bases.piecewise_polynomial import LocalPowers
from kanexport.bases.polynomial import chebyshev, hermite, jacobi, legendre, squashed
from kanexport.bases.rational import Rational
from kanexport.bases.relu_bumps import ReluBumps
from kanexport.bases.sech2 import Sech2
from kanexport.bases.sine import Sine
from kanexport.bases.uniform_cubic import Cubic
from kanexport.functions import expression
from kanexport.functions.domain_maps import Clip, Tanh
from kanexport.functions.elementwise import ACTIVATIONS, SYMBOLIC
from kanexport.functions.wavelets import WAVELETS
from kanexport.ir.model import BasisTerm, EdgeTerm, Kan, Layer, SymbolicEdge, Term
from kanexport.ir.steps import Affine, Product, Step
from kanserve.plotting import scenes
from kanserve.plotting.scenes import Curve, Network, Scene

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


Rng = np.random.Generator


def _local_powers(rng: Rng, sources: int) -> Basis:
    return LocalPowers(np.cumsum(rng.uniform(0.2, 0.9, (sources, 5)), axis=1) - 1.5, 3)


def _bumps(rng: Rng, sources: int) -> Basis:
    low = np.tile(np.arange(-3, 5) / 5, (sources, 1)) + rng.normal(0, 0.05, (sources, 8))
    return ReluBumps(low, low + 0.8, 6.0)


def _splines(rng: Rng, sources: int) -> Basis:
    return BSpline(np.cumsum(rng.uniform(0.2, 0.8, (sources, 12)), axis=1) - 2.5, 3)


BASES: dict[str, Callable[[Rng, int], Basis]] = {
    "bspline": _splines,
    "gaussian": lambda rng, sources: Gaussian(np.linspace(-2, 2, 8), 4 / 7),
    "chebyshev": lambda rng, sources: chebyshev(5),
    "chebyshev-clip": lambda rng, sources: squashed(chebyshev(4), Clip()),
    "legendre": lambda rng, sources: legendre(4, Tanh(slope=0.7, shift=0.1)),
    "jacobi": lambda rng, sources: jacobi(4, 0.5, 2),
    "hermite": lambda rng, sources: hermite(3),
    "gottlieb": lambda rng, sources: recurrence.gottlieb(4, -0.7),
    "hermite-functions": lambda rng, sources: recurrence.hermite_functions(4, 1.0),
    "fourier": lambda rng, sources: Fourier(4),
    "sine": lambda rng, sources: Sine(np.arange(1.0, 6), rng.uniform(0, 9, (5, sources))),
    "sech2": lambda rng, sources: Sech2(np.linspace(-1.2, 1.2, 6), 1.5),
    "uniform-cubic": lambda rng, sources: Cubic(np.arange(8) * 0.4 - 2.2, 0.4),
    "relu-bumps": _bumps,
    "piecewise-linear": lambda rng, sources: Hats(8, 4.0),
    "piecewise-polynomial": _local_powers,
    "rational": lambda rng, sources: Rational(rng.normal(size=(sources, 6)), rng.normal(size=(sources, 4))),
    "fermat": lambda rng, sources: Fermat(3),
    "gelu": lambda rng, sources: Activation(ACTIVATIONS["gelu"]),
}
EDGES = ("mexican_hat", "morlet", "dog", "ricker")
EXPRESSIONS = ("x*sin(x)", "exp(-x**2) + x/2", "log(x**2 + 2)", "1/(1 + x**2)")
KINDS = (*BASES, *EDGES, "symbolic")
SYMBOLS = ("arctan", "gaussian", "sigmoid", "cosh", "x^4", "x^5", "tanh", "cos")


def term(kind: str, rng: Rng, shape: tuple[int, int]) -> Term:
    """A term with random coefficients whose edges are of the order of one."""
    if kind in EDGES:
        size = (*shape, 2)
        centre, rate = rng.normal(0, 0.6, size), rng.uniform(0.6, 1.8, size)
        return EdgeTerm(WAVELETS[kind], centre, rate, rng.normal(size=size))
    basis = BASES[kind](rng, shape[0])
    return BasisTerm(basis, rng.normal(size=(*shape, basis.functions)) / np.sqrt(basis.functions))


def layer(kind: str, rng: Rng, shape: tuple[int, int]) -> Layer:
    """A layer of one kind. Every second one has a base branch, too."""
    ones, bias = np.ones(shape), rng.normal(size=shape[1])
    spreads = np.ones(shape, dtype=bool)
    if kind == "symbolic":
        functions = [SYMBOLIC[name] for name in SYMBOLS]
        functions += [expression.function(f"f{at}", text) for at, text in enumerate(EXPRESSIONS)]
        edges = tuple(
            SymbolicEdge(i, o, functions[int(rng.integers(len(functions)))], 0.6, 0.1, float(rng.normal()), 0.2, 1.0)
            for i in range(shape[0])
            for o in range(shape[1])
        )
        return Layer((), ones, bias, spreads, edges)
    terms = [term(kind, rng, shape)]
    if rng.random() < 0.5:
        terms.append(BasisTerm(Activation(ACTIVATIONS["silu"]), rng.normal(size=(*shape, 1))))
    mask = (rng.random(shape) > 0.15).astype(float)
    return Layer(tuple(terms), mask, bias, spreads)


def network(kind: str, depth: int, seed: int) -> Kan:
    """A network of `depth` layers of one kind."""
    rng = np.random.default_rng(seed)
    widths = [int(n) for n in rng.integers(2, 5, depth + 1)]
    layers = tuple(layer(kind, rng, shape) for shape in itertools.pairwise(widths))
    return Kan(widths[0], layers)


X = np.linspace(-1, 1, 33)


def scene_layer(sources: int, destinations: int, groups: tuple[int, ...] = (), seed: int = 0) -> scenes.Layer:
    rng = np.random.default_rng(seed)
    shape = (sources, destinations)
    curves = {(i, j): Curve(X, np.sin(X * (i + 1)) + j) for i in range(sources) for j in range(destinations)}
    return scenes.Layer(
        rng.uniform(0.1, 1, shape),
        np.zeros(shape, bool),
        np.ones(shape, bool),
        tuple(range(sources)),
        groups or (1,) * destinations,
        curves if sources * destinations <= scenes.CURVES else {},
    )


def made(*layers: scenes.Layer, inputs: int = 0) -> Network:
    names = tuple(f"x{at}" for at in range(inputs or len(layers[0].columns)))
    outputs = tuple(f"y{at}" for at in range(len(layers[-1].groups)))
    return Network("net <1> & more", "what it means", names, outputs, layers)


def of(scene: Scene, kind: type) -> list[Any]:
    """The elements of one kind."""
    return [item for item in scene.items if isinstance(item, kind)]
