"""Roles of tensors by their shapes."""

import numpy as np
import pytest

from kanexport.readers.common import roles

Tensors = dict[str, np.ndarray]

N, M, K = 3, 4, 6
COEF, POINTS, BASE = np.ones((M, N, K)), np.linspace(-1.0, 1.0, K), np.ones((M, N))
CASES: dict[str, tuple[Tensors, str]] = {
    "coefficients alone": ({"w": COEF}, "w:oik"),
    "with their degrees": ({"w": COEF, "arange": np.arange(K)}, "w:oik, arange:counter"),
    "with points and a base branch": (
        {"w": COEF, "grid": POINTS, "base": BASE, "b": np.ones(M)},
        "w:oik, grid:points, base:base, b:bias",
    ),
    "flat beside their points": (
        {"rbf.grid": POINTS, "linear.weight": np.ones((M, N * K))},
        "linear.weight:o-ik, rbf.grid:points",
    ),
    "cosines and sines": ({"fourier": np.ones((2, M, N, K))}, "fourier:2oik"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_assignment_has_the_names_that_resemble_the_roles(name: str) -> None:
    tensors, expected = CASES[name]
    layers = roles.find({f"layers.0.{key}": value for key, value in tensors.items()})
    assert layers is not None
    assert list(layers.layers) == ["layers.0."]
    assert layers.roles[0].text == expected


def test_assignments_that_chain_the_layers_exclude_others() -> None:
    layers = roles.find({"a.w": np.ones((5, 3, K)), "b.w": np.ones((2, 5, K))})
    assert layers is not None
    assert {assignment.axes for assignment in layers.roles} == {"oik"}


@pytest.mark.parametrize(
    "tensors",
    [
        {"conv.weight": np.ones((4, 3, 3, 3))},
        {"layers.0.w": COEF, "head.weight": np.ones((2, M))},  # no module between layers
    ],
)
def test_other_files_have_no_layers(tensors: Tensors) -> None:
    assert roles.find(tensors) is None
