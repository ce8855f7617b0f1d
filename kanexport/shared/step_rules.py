"""Rules of the steps between edges, on arrays: their values, and the propagation of differences.

A step takes v [B, n] and gives w [B, m]. For two values of v, x and r, `backpropagate_multipliers` turns multipliers
of w's differences into multipliers of v's. With M [B, O, m] it gives N [B, O, n] so that

    sum_k N_ok (x_k - r_k)  =  sum_j M_oj (w_j(x) - w_j(r))

exactly, up to rounding. The rules by kind of step:

    select             the multiplier of its column
    affine             the multiplier times the scale
    standardize        the multiplier over the scale
    function and the   elementwise: (f(x) - f(r)) / (x - r), and the derivative if x is r
    like
    product            u v, with both differences: mean of v times that of u, and mean of u times that of v; of several
                       factors the integral on the straight line from r to x, which is Shapley's value (Owen 1972)
    norms              a product of u = x - mean and of 1 / deviation, as above; the difference of the deviation
                       belongs to its squares, which are products again
    rowrange           a product of x - min and of 1 / (max - min); the difference of an extreme belongs to the
                       nodes that attain it on the straight line, each in proportion
    softmax            a product of exp(v) and of 1 / their sum
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.manifest import NodeStep

Floats = NDArray[np.float64]
Function = Callable[[Floats], Floats]
NEAR = 1e-6  # of a node's magnitude: x is r


class UnknownStep(ValueError):
    """Step without a rule in this module; the text names it."""


def sigmoid(x: Floats) -> Floats:
    """The logistic function."""
    # exp of a non-positive number only: no overflow, and NaN stays NaN.
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x < 0, e / (1 + e), 1 / (1 + e)))


def _erf(x: Floats) -> Floats:
    return np.asarray(np.vectorize(math.erf, otypes=[x.dtype])(x))  # numpy has none


def _gelu_tanh(x: Floats) -> Floats:
    inner: Floats = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(0.5 * x * (1 + np.tanh(inner)))


# Activations by name. `kanexport/functions/elementwise.py` has the operators of each.
FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "silu": lambda x: x * sigmoid(x),
        "identity": lambda x: x,
        "zero": lambda x: x * 0,
        "relu": lambda x: np.maximum(x, 0),
        "sigmoid": sigmoid,
        "tanh": np.tanh,
        "sin": np.sin,
        "cos": np.cos,
        "softplus": lambda x: np.logaddexp(0, x),
        "gelu": lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))),
        "gelu_tanh": _gelu_tanh,
    }
)


def evaluate(step: NodeStep, v: Floats) -> Floats:
    """[B, n] -> [B, m]. Raises UnknownStep."""
    return _rule(step).evaluate(v)


def backpropagate_multipliers(step: NodeStep, x: Floats, r: Floats, multipliers: Floats) -> Floats:
    """[B, O, m] -> [B, O, n] for x and r [B, n]. Raises UnknownStep."""
    return _rule(step).backpropagate_multipliers(x, r, multipliers)


def _rule(step: NodeStep) -> _Rule:
    if step.kind == "function":
        whole = {"softmax": _Softmax(log=False), "log_softmax": _Softmax(log=True)}
        if step.function in whole:
            return whole[step.function]
        if step.function in FUNCTIONS:
            return _Each(FUNCTIONS[step.function])
    elif step.kind in RULES:
        return RULES[step.kind](step)
    raise UnknownStep(step.function or step.kind)


class _Rule(ABC):
    """Step with its numbers."""

    @abstractmethod
    def evaluate(self, v: Floats) -> Floats: ...

    @abstractmethod
    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats: ...


class _Each(_Rule):
    """Elementwise function."""

    def __init__(self, function: Function) -> None:
        self._function = function

    def evaluate(self, v: Floats) -> Floats:
        return self._function(v)

    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats:
        return np.asarray(multipliers * secant(self._function, x, r)[:, None])


def secant(function: Function, x: Floats, r: Floats) -> Floats:
    """(f(x) - f(r)) / (x - r) for each element. If x equals r, or nearly, it is the derivative between them."""
    with np.errstate(all="ignore"):
        difference = x - r
        near = np.abs(difference) <= NEAR * np.maximum(np.maximum(np.abs(x), np.abs(r)), 1.0)
        middle, reach = (x + r) / 2, 1e-5 * np.maximum(np.abs(x), 1.0)
        high, low = np.where(near, middle + reach, x), np.where(near, middle - reach, r)
        return np.asarray((function(high) - function(low)) / (high - low))


class _Select(_Rule):
    def __init__(self, step: NodeStep) -> None:
        self._columns = list(step.indices)

    def evaluate(self, v: Floats) -> Floats:
        return v[:, self._columns]

    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats:
        result = np.zeros((*multipliers.shape[:2], x.shape[1]))
        for at, column in enumerate(self._columns):  # one may be taken twice
            result[:, :, column] += multipliers[:, :, at]
        return result


class _Affine(_Rule):
    def __init__(self, step: NodeStep) -> None:
        self._scale, self._bias = np.array(step.scale), np.array(step.bias)

    def evaluate(self, v: Floats) -> Floats:
        return np.asarray(v * self._scale + self._bias)

    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats:
        return np.asarray(multipliers * self._scale)


class _Standardize(_Rule):
    def __init__(self, step: NodeStep) -> None:
        self._scale, self._offset = np.array(step.scale), np.array(step.bias)

    def evaluate(self, v: Floats) -> Floats:
        return np.asarray((v - self._offset) / self._scale)

    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats:
        return np.asarray(multipliers / self._scale)


class _Product(_Rule):
    def __init__(self, step: NodeStep) -> None:
        self._sizes = step.indices

    def evaluate(self, v: Floats) -> Floats:
        return np.stack([v[:, part].prod(axis=1) for part in self._parts()], axis=1)

    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats:
        result = np.empty((*multipliers.shape[:2], x.shape[1]))
        for at, part in enumerate(self._parts()):
            result[:, :, part] = multipliers[:, :, at : at + 1] * _others(x[:, part], r[:, part])[:, None]
        return result

    def _parts(self) -> list[slice]:
        ends = np.cumsum(self._sizes).tolist()
        return [slice(end - size, end) for end, size in zip(ends, self._sizes, strict=True)]


def _others(x: Floats, r: Floats) -> Floats:
    """[B, n]: the product of all factors except one, as its mean on the straight line from r to x. The product is a
    polynomial, so Gauss points are exact."""
    count = x.shape[1]
    points, weights = np.polynomial.legendre.leggauss(count // 2 + 1)
    products = np.zeros_like(x)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        between = r + point * (x - r)
        for at in range(count):
            products[:, at] += weight * np.delete(between, at, axis=1).prod(axis=1)
    return products


class _Norm(_Rule):
    """Normalization of groups of nodes, `centred` or not."""

    def __init__(self, step: NodeStep, *, groups: int, centred: bool) -> None:
        self._scale, self._bias, self._epsilon = np.array(step.scale), np.array(step.bias), step.epsilon
        self._groups, self._centred = groups, centred

    def _centred_and_deviation(self, v: Floats) -> tuple[Floats, Floats]:
        """[B, G, n / G] of the groups, minus their means, and their deviations [B, G, 1]."""
        runs = v.reshape(len(v), self._groups, -1)
        centred = runs - runs.mean(axis=2, keepdims=True) if self._centred else runs
        return centred, np.sqrt((centred**2).mean(axis=2, keepdims=True) + self._epsilon)

    def evaluate(self, v: Floats) -> Floats:
        centred, deviation = self._centred_and_deviation(v)
        even = (centred / deviation).reshape(v.shape) * self._scale
        return np.asarray(even + self._bias if self._bias.size else even)

    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats:
        rows, outputs, width = multipliers.shape
        (u_x, d_x), (u_r, d_r) = self._centred_and_deviation(x), self._centred_and_deviation(r)
        u, inverse = (u_x + u_r) / 2, (1 / d_x + 1 / d_r) / 2
        grouped = (multipliers * self._scale).reshape(rows, outputs, self._groups, -1)
        # 1 / d falls by 1 / (d_x d_r (d_x + d_r)) for each unit of the mean square, and that grows by 2 u / n.
        fall = -2 / (u.shape[2] * d_x * d_r * (d_x + d_r))
        along = (grouped * u[:, None]).sum(axis=3, keepdims=True)
        result = grouped * inverse[:, None] + along * (fall * u)[:, None]
        if self._centred:
            result -= result.mean(axis=3, keepdims=True)
        return np.asarray(result.reshape(rows, outputs, width))


class _RowRange(_Rule):
    def evaluate(self, v: Floats) -> Floats:
        low, high = v.min(axis=1, keepdims=True), v.max(axis=1, keepdims=True)
        return np.asarray(2 * (v - low) / (high - low) - 1)

    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats:
        (low_x, high_x), (low_r, high_r) = ((v.min(1, keepdims=True), v.max(1, keepdims=True)) for v in (x, r))
        d_x, d_r = high_x - low_x, high_r - low_r
        u, inverse = ((x - low_x) + (r - low_r)) / 2, (1 / d_x + 1 / d_r) / 2
        result = 2 * multipliers * inverse[:, None]
        lowest, highest = _shares(x, r), _shares(-x, -r)
        total = result.sum(axis=2, keepdims=True)
        along = (2 * multipliers * u[:, None]).sum(axis=2, keepdims=True)
        spread = (highest - lowest) / (d_x * d_r)
        return np.asarray(result - total * lowest[:, None] - along * spread[:, None])


def _shares(x: Floats, r: Floats) -> Floats:
    """[B, n]: the share of the straight line from r to x on which each node is the smallest."""
    shares = np.zeros_like(x)
    for row, (end, start) in enumerate(zip(x, r, strict=True)):
        steep = end - start
        at, least = 0.0, int(np.lexsort((steep, start))[0])
        while at < 1:
            # The next to be the smallest falls faster, and is met first.
            faster = np.flatnonzero(steep < steep[least])
            meets = (start[faster] - start[least]) / (steep[least] - steep[faster])
            order = np.lexsort((steep[faster], meets))
            until = min(1.0, float(meets[order[0]])) if len(order) else 1.0
            shares[row, least] += until - at
            at, least = until, int(faster[order[0]]) if len(order) else least
    return shares


class _Softmax(_Rule):
    def __init__(self, *, log: bool) -> None:
        self._log = log

    def evaluate(self, v: Floats) -> Floats:
        shifted = v - v.max(axis=1, keepdims=True)
        logarithm = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return np.asarray(logarithm if self._log else np.exp(logarithm))

    def backpropagate_multipliers(self, x: Floats, r: Floats, multipliers: Floats) -> Floats:
        top = np.maximum(x.max(axis=1, keepdims=True), r.max(axis=1, keepdims=True))  # the same for both
        e_x, e_r = np.exp(x - top), np.exp(r - top)
        s_x, s_r = e_x.sum(axis=1, keepdims=True), e_r.sum(axis=1, keepdims=True)
        steep = secant(lambda v: np.exp(v - top), x, r)[:, None]
        if self._log:
            fall = secant(np.log, s_x, s_r)[:, None]
            return np.asarray(multipliers - multipliers.sum(axis=2, keepdims=True) * fall * steep)
        mean = ((e_x + e_r) / 2)[:, None]
        inverse, fall = ((1 / s_x + 1 / s_r) / 2)[:, None], (1 / (s_x * s_r))[:, None]
        along = (multipliers * mean).sum(axis=2, keepdims=True)
        return np.asarray((multipliers * inverse - along * fall) * steep)


RULES: Mapping[str, Callable[[NodeStep], _Rule]] = MappingProxyType(
    {
        "select": _Select,
        "affine": _Affine,
        "standardize": _Standardize,
        "product": _Product,
        "layernorm": lambda step: _Norm(step, groups=1, centred=True),
        "groupnorm": lambda step: _Norm(step, groups=step.indices[0], centred=True),
        "rmsnorm": lambda step: _Norm(step, groups=1, centred=False),
        "prelu": lambda step: _Each(lambda v: np.where(v > 0, v, np.array(step.scale) * v)),
        "swish": lambda step: _Each(lambda v: v * sigmoid(np.array(step.scale) * v)),
        "clip": lambda step: _Each(lambda v: np.clip(v, np.array(step.scale), np.array(step.bias))),
        "rowrange": lambda step: _RowRange(),
    }
)
