"""Conformance checks of bases, functions, steps and layers: operators compute the values of `evaluate`.

`kanexport/bases` (`Basis.compact`) and `kanexport/ir/model.py` (`Layer.nan_spreads`) define the rules for
nonfinite numbers, and `kanexport/lowering/terms.py` implements them:

* A compact basis gives zero: NaN never reaches its `emit` (the lowering puts an end of the support
  in its place), infinities do.
* Any other basis follows IEEE arithmetic. NaN gives NaN; an infinity gives what the formula gives.
  An edge adds all functions of its source up, and 0 * NaN is NaN: so where one function is NaN
  in `evaluate`, one must be in the graph, and the others do not matter.
* Functions and steps agree value by value: NaN with NaN, an infinity with the same infinity.
* The other sources of the row keep their values.

Beyond `verify/tolerances.OVERFLOW` a graph may overflow, and then says so: it gives NaN, an infinity
or the largest number of its type, never a wrong number. A compact basis gives zero there too.
Where `evaluate` itself overflows, nothing is known.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kanexport.bases import Basis
from kanexport.functions.elementwise import Unary
from kanexport.graph import precision
from kanexport.graph.builder import Graph, Value
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.steps import Step
from kanexport.lowering import lower, terms
from kanexport.verify import float64_reference
from kanexport.verify.tolerances import CONDITION, EDGE_TOLERANCE, OVERFLOW

Array = np.ndarray
DTYPES = ("float32", "float64")
# Tolerance of basis values, relative to the largest value in the support, without amplification by a node.
BASIS_TOLERANCE = {"float32": 5e-6, "float64": 1e-13}
LAYER_TOLERANCE = {"float32": EDGE_TOLERANCE, "float64": 1e-11}
NOT_FINITE = (np.nan, np.inf, -np.inf)
SOURCES = 3  # of the examples that are made for a number of sources
NEARLY_ZERO = 1e-15  # what float32 leaves of a spline at its own end, where the lowering puts NaN
BEYOND = 1e-3  # relative, where the reciprocal of a number is below the normal ones
DRAWS = 16  # of the rounding of a source; half of them change nothing in float64
FAR = 1e4  # from here on rounding a source alone may turn an angle, and is excused


def extremes(dtype: str) -> list[float]:
    """Zeros, the smallest numbers of a type, and the largest."""
    info = np.finfo(dtype)
    small = [float(info.smallest_subnormal), float(info.tiny) / 3, float(info.tiny), 1e-20]
    large = [1e10, 1e29, 1e30, 3e38] + ([1e300, float(info.max)] if dtype == "float64" else [])
    return [sign * value for value in (0.0, *small, *large) for sign in (1.0, -1.0)]


def hostile_rows(ordinary: Array, dtype: str) -> Array:
    """[B, I]: an ordinary row with NaN, infinities and extreme numbers, in one place, in some and in all places, and
    next to NaN."""
    n = len(ordinary)
    if n <= SOURCES:  # every mixture
        picks = [np.array(p) for p in itertools.product(range(-1, 3), repeat=n)]
    else:
        rng = np.random.default_rng(0)
        alone = [np.where(np.arange(n) == at, kind, -1) for at in range(n) for kind in range(3)]
        picks = [*alone, *(np.full(n, kind) for kind in range(3)), *rng.integers(-1, 3, size=(24, n))]
    rows = [np.where(pick < 0, ordinary, np.array(NOT_FINITE)[pick]) for pick in picks]
    for at, value in enumerate(extremes(dtype)):
        single = np.where(np.arange(n) == at % n, value, ordinary)
        beside = np.where(np.arange(n) == (at + 1) % n, np.nan, single)
        rows += [single, beside, np.full(n, value)]
    return np.array(rows).astype(dtype).astype(np.float64)


def rows_around(basis: Basis, sources: int) -> Array:
    """[B, I]: rows inside the support, near it, far from it, and at each of its points with the float32 neighbors."""
    support = basis.support(sources)
    low, high = support.outer
    spread = np.linspace(0, 1, 101)[:, None]
    points = np.concatenate([support.points, [low, high], support.core]).astype(np.float32)
    near = [np.nextafter(points, np.float32(side)) for side in (-np.inf, np.inf)]
    span = high - low
    rows = [low + spread * span, low - 10 * span * spread, high + 10 * span * spread, points, *near]
    return np.concatenate(rows).astype(np.float32).astype(np.float64)


class Emitted:
    """Operators as a graph that runs: [B, I] to float64 values of `shape` after the batch."""

    def __init__(
        self, emit: Callable[[Graph, Value], Value], columns: int, shape: tuple[int, ...], dtype: str, *, exact: bool
    ) -> None:
        g = Graph("conformance", dtype)
        g.small_values = exact
        model = g.build({"f": (emit(g, g.input("x", columns)), shape)})
        self.session, self.dtype, self.shape = _session(model), dtype, shape
        self.scale = 1.0

    def __call__(self, x: Array) -> Array:
        (values,) = self.session.run(["f"], {"x": x.astype(self.dtype)})
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(np.float64) * self.scale

    def check_batches(self, x: Array, found: Array, what: str) -> None:
        """No row gives no row, and one row gives what it gives among many, up to rounding."""
        empty = self(x[:0])
        assert empty.shape == (0, *self.shape), f"{what}: no rows give {empty.shape}, expected {(0, *self.shape)}"
        for at in range(0, len(x), max(1, len(x) // 8)):
            rtol = 16 * float(np.finfo(self.dtype).eps)
            np.testing.assert_allclose(
                self(x[at : at + 1])[0], found[at], rtol=rtol, atol=rtol, err_msg=f"{what}: row {x[at]} by itself"
            )


def _session(model: bytes) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def computed(emit: Callable[[Graph, Value], Value], x: Array, dtype: str = "float32", *, exact: bool = True) -> Array:
    """Results of the operators of a function for numbers [B]."""
    return Emitted(emit, 1, (1,), dtype, exact=exact)(x[:, None])[:, 0]


def edge_values(layer: Layer, x: Array) -> Array:
    """[B, I, O]: the float64 values of all edges of a layer for its nodes x [B, I]."""
    return np.concatenate([values for _, values, _ in float64_reference.edges(layer, x)])


def check_each(check: Callable[..., None], items: Iterable[Any], *arguments: Any, **options: Any) -> None:
    """Check each item; the message lists every failure."""
    faults = []
    for item in items:
        try:
            check(item, *arguments, **options)
        except (AssertionError, pytest.fail.Exception) as fault:
            faults.append(f"{str(item)[:80]}: {fault}")
    assert not faults, "\n".join(faults)


def check_basis(basis: Basis, dtype: str, sources: int = SOURCES) -> None:
    """Raises AssertionError, saying for which source the graph and `evaluate` differ."""
    what = f"{basis.kind} in {dtype}"
    _check_facts(basis, sources, what)
    around = rows_around(basis, sources)
    support = basis.support(sources)
    x = np.concatenate([around, hostile_rows(0.6 * support.core[0] + 0.4 * support.core[1], dtype)])
    graph = emitted_basis(basis, dtype, sources)
    result = graph(x)
    graph.check_batches(x[len(around) :], result[len(around) :], what)
    with np.errstate(all="ignore"):
        expected = basis.evaluate(x)
        assert basis.evaluate(x[:0]).shape == (0, basis.functions, sources), f"{what}: evaluate of no rows"
    assert expected.shape == (len(x), basis.functions, sources), f"{what}: evaluate gives {expected.shape}"
    if basis.compact:
        _check_zero(basis, x, expected, result, what)
    _check_nan(basis, x, expected, result, what)
    magnitude = max(1.0, float(np.abs(expected[: len(around)]).max()))
    finite = np.where(np.isfinite(expected), np.abs(expected), 0)
    allowed = BASIS_TOLERANCE[dtype] * np.maximum(magnitude, finite)
    allowed += _excuse(basis.evaluate, x, dtype)[:, None, None]
    # Where one function is NaN the edge is: only the others are compared.
    spoilt = np.isnan(expected).any(axis=1, keepdims=True)
    _check_values(np.where(spoilt, 0, result), np.where(spoilt, 0, expected), x[:, None, :], allowed, dtype, what)


def emitted_basis(basis: Basis, dtype: str, sources: int = SOURCES) -> Emitted:
    """The basis as the lowering emits it, [B, I] -> [B, K, I], times the factor left to the coefficients."""
    shape = (sources, 1)
    term = BasisTerm(basis, np.ones((*shape, basis.functions)))
    layer = Layer((term,), mask=np.ones(shape), bias=np.zeros(1), nan_spreads=np.zeros(shape, dtype=bool))
    scales: list[float] = []

    def emit(g: Graph, x: Value) -> Value:
        value = terms.basis_term(g, layer, term, x)
        scales.append(basis.emitted_scale(g))
        return g.reshape(value, 0, basis.functions, sources)

    graph = Emitted(emit, sources, (basis.functions, sources), dtype, exact=True)
    graph.scale = scales[0]
    return graph


def _check_facts(basis: Basis, sources: int, what: str) -> None:
    support = basis.support(sources)
    for name, ends in (("core", support.core), ("outer", support.outer)):
        low, high = ends
        assert low.shape == high.shape == (sources,), f"{what}: support().{name} is not (low [I], high [I])"
        assert (low <= high).all(), f"{what}: support().{name} ends before it starts"
    assert support.points.ndim == 2, f"{what}: support().points is not [P, I]"
    assert support.points.shape[1] == sources, f"{what}: support().points is not [P, I]"
    knots = basis.knots()
    assert knots.ndim == 2, f"{what}: knots() is not [I, T], [1, T] or [0, 0]"
    assert len(knots) in (0, 1, sources), f"{what}: knots() has {len(knots)} rows"
    assert all(isinstance(v, str) for pair in basis.parameters().items() for v in pair), f"{what}: parameters()"


def _check_zero(basis: Basis, x: Array, expected: Array, found: Array, what: str) -> None:
    """Zero outside the support and for what is not finite."""
    low, high = basis.support(x.shape[1]).outer
    margin = 1e-3 * np.maximum(1, high - low)
    outside = ~np.isfinite(x) | (x < low - margin) | (x > high + margin)
    for name, values in (("evaluate", expected), ("the graph", found)):
        wrong = outside[:, None, :] & ~(np.abs(values) <= np.where(np.isnan(x), NEARLY_ZERO, 0)[:, None, :])
        if wrong.any():
            row, function, source = (int(v) for v in np.argwhere(wrong)[0])
            value = values[row, function, source]
            raise AssertionError(f"{what} is compact, but {name} of {x[row, source]} is {value}, not 0: {x[row]}")


def _check_nan(basis: Basis, x: Array, expected: Array, found: Array, what: str) -> None:
    """NaN where `evaluate` has it; and for a NaN source, unless the basis is compact."""
    owed, supplied = np.isnan(expected).any(axis=1), np.isnan(found).any(axis=1)
    beyond = _size(x, np.nan_to_num(expected).max(axis=1)) >= OVERFLOW
    swallowed = np.isnan(x) & ~owed & (not basis.compact)
    for name, wrong in (("evaluate", swallowed), ("the graph", owed & ~supplied & ~beyond)):
        if wrong.any():
            row, source = (int(v) for v in np.argwhere(wrong)[0])
            raise AssertionError(f"{what}: {name} of {x[row, source]} is not NaN: row {x[row]}, source {source}")


def check_function(function: Unary, dtype: str, *, exact: bool, rtol: float, atol: float) -> None:
    """Compare one function of a number with its reference, over many columns at once. `exact`: small values stay
    exact."""
    what = f"{function.name} in {dtype}"
    tame = np.concatenate([np.linspace(-4, 4, 187), [0.5, -0.5, 1.0, -1.0, 1e-3, -1e-3, 0.999, -0.999]])
    columns = 17  # more than a vector of any processor, and no multiple of one
    grid = np.resize(tame, (len(tame) // columns + 1, columns)).astype(dtype).astype(np.float64)
    x = np.concatenate([grid, hostile_rows(grid[1], dtype)])
    graph = Emitted(function.emit, columns, (columns,), dtype, exact=exact)
    result = graph(x)
    graph.check_batches(x, result, what)
    with np.errstate(all="ignore"):
        expected = function.evaluate(x)
        finite = np.where(np.isfinite(expected), np.abs(expected), 0)
    allowed = atol + rtol * finite + _excuse(function.evaluate, x, dtype)[:, None]
    _check_values(result, expected, x, allowed, dtype, what)


def check_step(step: Step, width: int, dtype: str) -> None:
    """A step between layers, from `width` nodes."""
    what = f"{type(step).__name__} in {dtype}"
    x = hostile_rows(np.linspace(-1.3, 2.1, width), dtype)
    x = np.concatenate([np.random.default_rng(0).normal(size=(9, width)).astype(dtype).astype(np.float64), x])
    if step.mixes:  # a normalisation squares
        x = x[np.max(np.where(np.isfinite(x), np.abs(x), 0), axis=1) < OVERFLOW**0.5]
    graph = Emitted(step.emit, width, (step.width_out(width),), dtype, exact=True)
    result = graph(x)
    graph.check_batches(x, result, what)
    with np.errstate(all="ignore"):
        expected = step.evaluate(x)
    # A node of the result may come from any node of the row.
    size = np.max(np.where(np.isfinite(x), np.abs(x), 0), axis=1, keepdims=True)
    magnitude = np.maximum(1, np.where(np.isfinite(expected), np.abs(expected), 0))
    _check_values(
        result, expected, np.broadcast_to(size, expected.shape), BASIS_TOLERANCE[dtype] * magnitude, dtype, what
    )


def check_layer(layer: Layer, dtype: str) -> None:
    """Edges and sums of a layer, NaN that spreads included, through its two graphs."""
    kan = Kan(layer.sources, (layer,))
    support = layer.support()
    ordinary = 0.6 * support.core[0] + 0.4 * support.core[1]
    x = np.concatenate([ordinary[None], hostile_rows(ordinary, dtype)])
    x = x[~(np.isfinite(x) & (np.abs(x) > FAR)).any(axis=1)]
    lowered = lower.lower(kan, dtype)
    (_, edges, _), *_ = float64_reference.edges(layer, x)
    for model, expected in ((lowered.edges[0], edges), (lowered.model, float64_reference.evaluate(kan, x).y)):
        (result,) = _session(model).run(None, {"x": x.astype(dtype)})
        magnitude = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
        allowed = np.full(expected.shape, LAYER_TOLERANCE[dtype] * magnitude)
        _check_values(result, expected, np.zeros(expected.shape), allowed, dtype, f"{layer.terms[0].kind} in {dtype}")


def _size(x: Array, values: Array) -> Array:
    """The largest finite magnitude, of a source or of its values."""
    return np.maximum(*(np.where(np.isfinite(v), np.abs(v), 0) for v in (x, values)))


def _excuse(function: Callable[[Array], Array], x: Array, dtype: str) -> Array:
    """[B]: in rows with a large source, the change that rounding of the sources may cause, as in the verification."""
    far = (np.isfinite(x) & (np.abs(x) > FAR)).any(axis=1)
    excuse = np.zeros(len(x))
    with np.errstate(all="ignore"):
        exact = function(x[far])
        for seed in range(DRAWS):
            moved = function(float64_reference.Jitter(precision.rounding(dtype), seed).shake(x[far]))
            change = np.nan_to_num(np.abs(moved - exact), nan=0, posinf=0)
            excuse[far] = np.maximum(excuse[far], change.reshape(len(change), -1).max(axis=1, initial=0))
        return np.asarray(CONDITION * excuse)


def _check_values(found: Array, expected: Array, x: Array, allowed: Array, dtype: str, what: str) -> None:
    """Value by value; `x`, of a shape that broadcasts, is what each was computed from."""
    x = np.broadcast_to(x, expected.shape)
    beyond = _size(x, expected) >= OVERFLOW
    with np.errstate(invalid="ignore"):
        near = np.abs(found - expected) <= np.maximum(allowed, np.where(beyond, BEYOND * np.abs(expected), 0))
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    unknown = beyond & np.isfinite(x) & ~np.isfinite(expected)
    overflow = beyond & ~(np.abs(found) < float(np.finfo(dtype).max))
    wrong = ~(np.where(np.isfinite(expected), near, same) | unknown | overflow)
    if wrong.any():
        at = tuple(int(v) for v in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{what}: at {list(at)} the graph gives {found[at]} for {x[at]}, evaluate {expected[at]} "
            f"({int(wrong.sum())} of {wrong.size} values are wrong)"
        )
