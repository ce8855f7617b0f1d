"""Tests of `verify/attribution.py`."""

import itertools
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kanexport.ir.steps import Product
from kanexport.shared import step_rules
from kanexport.verify import attribution, float64_reference
from tests.support.small_checkpoints import network, read


def shares(values: list[float], reference: list[float]) -> list[float]:
    """Shapley's, by all orders: of each factor by how much the product grows when it changes, over its own change."""
    result = [0.0] * len(values)
    orders = list(itertools.permutations(range(len(values))))
    for order in orders:
        now = list(reference)
        for at in order:
            others = float(np.prod([now[other] for other in range(len(now)) if other != at]))
            result[at] += others / len(orders)
            now[at] = values[at]
    return result


FACTORS = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=5)


@given(st.lists(FACTORS, min_size=1, max_size=3))
def test_factors_share_as_shapley_has_it(groups: list[list[tuple[float, float]]]) -> None:
    step = Product(tuple(map(len, groups)))
    x, r = (np.array([[pair[side] for group in groups for pair in group]]) for side in (0, 1))
    expected = [item for group in groups for item in shares(*map(list, zip(*group, strict=True)))]
    multipliers = step_rules.backpropagate_multipliers(step.describe(), x, r, np.ones((1, 1, len(groups))))
    np.testing.assert_allclose(multipliers[0, 0], expected, rtol=1e-9, atol=1e-9)


def test_an_input_that_is_not_read_has_none(tmp_path: Path) -> None:
    """And one that is read twice has both parts."""
    kan, _ = read(network(1, products=True).write(tmp_path), "input_id=0,3,0", "n_inputs=5")
    x = np.random.default_rng(0).normal(size=(6, 5))
    anchor = attribution.anchor(kan, np.zeros(5))
    trace = float64_reference.evaluate(kan, x)
    result, _ = attribution.contributions(anchor, trace, "float64")
    assert (result[:, [1, 2, 4]] == 0).all()
    np.testing.assert_allclose(result.sum(axis=1) + anchor.base, trace.y, rtol=1e-7)
