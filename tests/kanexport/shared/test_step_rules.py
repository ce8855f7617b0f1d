"""Rules that attribute a difference through each step: sums are preserved and match the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kanexport.functions import elementwise
from kanexport.ir import norms, scaling
from kanexport.ir import steps as forms
from kanexport.shared import step_rules
from kanexport.shared.manifest import NodeStep

WIDTH = 6
RNG = np.random.default_rng(11)
SCALE, BIAS = RNG.normal(size=(2, WIDTH))
FORMS = {
    "select": forms.Select((4, 1, 1, 0)),
    "affine": forms.Affine(SCALE, BIAS),
    "standardize": scaling.Standardize(BIAS, np.abs(SCALE) + 0.1),
    "product": forms.Product((1, 3, 2)),
    "clip": forms.Clip(np.full(WIDTH, -0.5), np.full(WIDTH, 0.7)),
    "prelu": forms.PRelu(np.array([0.25])),
    "prelus": forms.PRelu(SCALE),
    "swish": forms.Swish(SCALE),
    "rowrange": forms.RowRange(),
    "layernorm": norms.LayerNorm(SCALE, BIAS, 1e-5),
    "rmsnorm": norms.RmsNorm(SCALE, BIAS, 1e-6),
    "groupnorm": norms.GroupNorm(SCALE, BIAS, 1e-5, groups=2),
    "norm of groups": norms.NormOfGroups(norms.LayerNorm(SCALE[:2], BIAS[:2], 1e-5), 3),
    "softmax": forms.Softmax(),
    "log_softmax": forms.Softmax(log=True),
    **{name: forms.Elementwise(elementwise.ACTIVATIONS[name]) for name in elementwise.ACTIVATIONS},
}
EVERY = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
ROWS = arrays.arrays(np.float64, (3, WIDTH), elements=st.floats(-3, 3, width=32))


@EVERY
def test_a_step_gives_what_the_exporter_s_gives(form: forms.Step) -> None:
    x = RNG.uniform(-3, 3, (20, WIDTH))
    np.testing.assert_allclose(step_rules.evaluate(form.describe(), x), form.evaluate(x), rtol=1e-12, atol=1e-12)


@EVERY
@settings(max_examples=settings.default.max_examples // 10)
@given(ROWS, ROWS, st.integers(0, 99))
def test_what_goes_back_adds_up(form: forms.Step, x: np.ndarray, r: np.ndarray, seed: int) -> None:
    step = form.describe()
    with np.errstate(all="ignore"):
        apart = step_rules.evaluate(step, x) - step_rules.evaluate(step, r)
        if not np.isfinite(apart).all() or (step.kind == "rowrange" and min(np.ptp(v, 1).min() for v in (x, r)) < 1e-3):
            return  # a row of equal nodes has no range
        multipliers = np.random.default_rng(seed).normal(size=(3, 2, apart.shape[1]))
        result = (step_rules.backpropagate_multipliers(step, x, r, multipliers) * (x - r)[:, None]).sum(axis=2)
    expected = (multipliers * apart[:, None]).sum(axis=2)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(multipliers).max()))


@EVERY
def test_of_rows_that_differ_little_it_is_the_derivative(form: forms.Step) -> None:
    step = form.describe()
    x = RNG.uniform(-2, 2, (1, WIDTH))
    multipliers = np.eye(step_rules.evaluate(step, x).shape[1])[None]
    result = step_rules.backpropagate_multipliers(step, x, x, multipliers)[0]
    for node in range(WIDTH):
        reach = np.zeros(WIDTH)
        reach[node] = 1e-5
        slope = (step_rules.evaluate(step, x + reach) - step_rules.evaluate(step, x - reach))[0] / 2e-5
        np.testing.assert_allclose(result[:, node], slope, rtol=1e-3, atol=1e-4)


def test_an_extreme_falls_to_the_nodes_that_are_it_on_the_way() -> None:
    """From (0, 1) to (2, 1) the first is the smallest half of the way, the second the other half."""
    np.testing.assert_allclose(step_rules._shares(np.array([[2.0, 1.0]]), np.array([[0.0, 1.0]])), [[0.5, 0.5]])
    np.testing.assert_allclose(step_rules._shares(np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])), [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (NodeStep(kind="module", function="MyNorm"), "MyNorm"),
        (NodeStep(kind="function", function="Fourier features (3 frequencies of the whole row)"), "Fourier features"),
        (NodeStep(kind="whatever"), "whatever"),
    ],
)
def test_a_step_that_is_not_known_is_named(step: NodeStep, words: str) -> None:
    with pytest.raises(step_rules.UnknownStep, match=words):
        step_rules.evaluate(step, np.zeros((1, 2)))
    with pytest.raises(step_rules.UnknownStep, match=words):
        step_rules.backpropagate_multipliers(step, np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 1, 2)))
