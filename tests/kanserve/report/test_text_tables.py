"""Text descriptions of steps and bases."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from kanexport.contract import manifest
from kanexport.contract.manifest import BasisInfo, NodeStep, SymbolicEdge
from kanserve.report import text_tables
from tests.support import toy_grid_model


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (NodeStep(kind="select", indices=(0, 2)), "columns 0, 2"),
        (NodeStep(kind="select", indices=tuple(range(9))), "columns 0, 1, 2, 3, 4, 5 and 3 more"),
        (NodeStep(kind="product", indices=(2, 1)), "products of 2, 1 values"),
        (NodeStep(kind="affine", scale=(1.0, 1.0), bias=(0.0, 2.0)), "bias"),
        (NodeStep(kind="affine", scale=(2.0,), bias=(1.0,)), "scale and bias"),
        (NodeStep(kind="affine", scale=(1.0,), bias=(0.0,)), "affine"),
        (NodeStep(kind="layernorm", scale=(1.0, 1.0), bias=(0.0, 0.0), epsilon=1e-5), "layernorm"),
        (NodeStep(kind="layernorm", scale=(1.0, 2.0), bias=(0.0, 1.0)), "layernorm with scale and bias"),
        (NodeStep(kind="prelu", scale=(0.25,)), "prelu 0.25"),
        (NodeStep(kind="prelu", scale=(0.25, 0.5)), "prelu of 2 slopes"),
        (NodeStep(kind="function", function="tanh"), "tanh"),
        (NodeStep(kind="later"), "later"),
    ],
)
def test_a_step_in_words(step: NodeStep, words: str) -> None:
    assert text_tables.step(step) == words


@pytest.mark.parametrize(
    ("basis", "words"),
    [
        (BasisInfo(kind="silu", functions=1, parameters={}, knots=()), "silu"),
        (
            BasisInfo(kind="bspline", functions=8, parameters={"intervals": "5", "degree": "3"}, knots=()),
            "bspline, 8 functions (degree 3, intervals 5)",
        ),
        (
            BasisInfo(kind="mexican_hat", functions=1, parameters={}, knots=(), per_edge=True),
            "mexican_hat, shifted and stretched per edge",
        ),
        (
            BasisInfo(
                kind="chebyshev",
                functions=4,
                parameters={},
                knots=(),
                pre_steps=(NodeStep(kind="layernorm"), NodeStep(kind="function", function="tanh")),
            ),
            "chebyshev, 4 functions of layernorm, then tanh",
        ),
    ],
)
def test_a_basis_in_words(basis: BasisInfo, words: str) -> None:
    assert text_tables.basis(basis) == words


def test_a_layer_in_words(tmp_path: Path) -> None:
    toy = manifest.load(toy_grid_model.write(tmp_path)).layers[0]
    edges = [
        SymbolicEdge(source=0, destination=at, function="sin" if at else "exp", a=1, b=0, c=1, d=0, mask=1)
        for at in range(3)
    ]
    layer = dataclasses.replace(toy, symbolic=tuple(edges), bias=(0.0, 1.0))
    assert text_tables.functions(layer) == ["tanh", "symbolic: sin x 2, exp"]
    assert text_tables.sums(layer) == "bias, then prelu 0.25"
    assert text_tables.sums(dataclasses.replace(layer, bias=(0.0, 0.0), post_steps=())) == ""
