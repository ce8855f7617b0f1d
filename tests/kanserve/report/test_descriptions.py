"""Text descriptions of steps and bases."""

import dataclasses
from pathlib import Path

from kanexport.shared import manifest
from kanexport.shared.manifest import BasisInfo, NodeStep, SymbolicEdge
from kanserve.report import descriptions
from tests.support import toy_grid_model


def test_a_step_in_words() -> None:
    for step, words in (
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
    ):
        assert descriptions.step(step) == words


def test_a_basis_in_words() -> None:
    steps = (NodeStep(kind="layernorm"), NodeStep(kind="function", function="tanh"))
    degree = {"intervals": "5", "degree": "3"}
    for kind, functions, more, words in (
        ("silu", 1, {}, "silu"),
        ("bspline", 8, {"parameters": degree}, "bspline, 8 functions (degree 3, intervals 5)"),
        ("mexican_hat", 1, {"per_edge": True}, "mexican_hat, shifted and stretched per edge"),
        ("chebyshev", 4, {"pre_steps": steps}, "chebyshev, 4 functions of layernorm, then tanh"),
    ):
        facts = {"parameters": {}, "knots": (), **more}
        assert descriptions.basis(BasisInfo(kind=kind, functions=functions, **facts)) == words


def test_a_layer_in_words(tmp_path: Path) -> None:
    toy = manifest.load(toy_grid_model.write(tmp_path)).layers[0]
    edges = [
        SymbolicEdge(source=0, destination=at, function="sin" if at else "exp", a=1, b=0, c=1, d=0, mask=1)
        for at in range(3)
    ]
    layer = dataclasses.replace(toy, symbolic=tuple(edges), bias=(0.0, 1.0))
    assert descriptions.functions(layer) == ["tanh", "symbolic: sin x 2, exp"]
    assert descriptions.sums(layer) == "bias, then prelu 0.25"
    assert descriptions.sums(dataclasses.replace(layer, bias=(0.0, 0.0), post_steps=())) == ""
