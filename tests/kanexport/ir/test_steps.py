"""Tests of `ir/steps.py`."""

import inspect

import numpy as np
import pytest

from kanexport.functions import elementwise
from kanexport.ir import norms, scaling, steps
from kanexport.ir.norms import GroupNorm, LayerNorm, NormOfGroups, RmsNorm
from kanexport.ir.scaling import Restore, Standardize
from kanexport.ir.steps import (
    Affine,
    Clip,
    Elementwise,
    FourierFeatures,
    PRelu,
    Product,
    RowRange,
    Select,
    Softmax,
    Step,
    Swish,
)
from tests.support.conformance import DTYPES, SOURCES, check_each, check_step

ONES = np.array([1.0, -2.5, 0.5])


STEPS: dict[type, list[Step]] = {
    Select: [Select((2, 0)), Select((1, 1, 0))],
    Affine: [Affine(ONES, ONES[::-1]), Affine(np.zeros(3), ONES)],
    Product: [Product((1, 2)), Product((3,)), Product((1, 1, 1))],
    LayerNorm: [LayerNorm(ONES, ONES[::-1], 1e-5), LayerNorm(np.ones(3), np.zeros(3), 0.1)],
    RmsNorm: [RmsNorm(ONES, ONES[::-1], 1e-5), RmsNorm(np.ones(3), np.zeros(3), 0.1)],
    GroupNorm: [GroupNorm(ONES, ONES[::-1], 1e-5), GroupNorm(ONES, np.zeros(3), 0.1, groups=3)],
    Softmax: [Softmax(), Softmax(log=True)],
    NormOfGroups: [NormOfGroups(LayerNorm(np.array([0.7]), np.array([0.1]), 0.1), 3)],
    Swish: [Swish(np.array([1.7])), Swish(ONES)],
    Elementwise: [Elementwise(elementwise.activation(name)) for name in ("tanh", "silu", "relu")],
    RowRange: [RowRange()],
    Clip: [Clip(ONES - 1, ONES + 0.5), Clip(-np.ones(3), np.ones(3))],
    Standardize: [Standardize(ONES, np.abs(ONES)), Standardize(np.zeros(3), np.array([0.1, 3.0, 1e6]))],
    Restore: [Restore(np.abs(ONES), ONES)],
    PRelu: [PRelu(np.array([0.25])), PRelu(ONES), PRelu(np.zeros(3))],
}


def test_every_step_has_an_example() -> None:
    classes = [
        kind
        for home in (steps, norms, scaling)
        for _, kind in inspect.getmembers(home, inspect.isclass)
        if kind.__module__ == home.__name__
    ]
    # Float32 has no sine of the largest inputs here; test_combined_families tests FourierFeatures.
    steps_with_operators = {kind for kind in classes if kind is not Step and hasattr(kind, "emit")}
    assert set(STEPS) == steps_with_operators - {FourierFeatures}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_gives_what_it_owes(dtype: str) -> None:
    check_each(check_step, [step for examples in STEPS.values() for step in examples], SOURCES, dtype)
