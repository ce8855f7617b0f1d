"""Data flow through the layers: assumptions, optional options, and required options."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import FamilyError, OpenQuestion, OptionError
from kanexport.ir.model import Kan
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import Tensors, chebyshev, exported, read, reading, refuse, save, stacked
from tests.support.tiers import spread

RNG = np.random.default_rng(8)
Array = np.ndarray[Any, np.dtype[np.float64]]


def cheby(*widths: int) -> list[Tensors]:
    """ChebyKAN layers, small enough that none saturates the next one's tanh."""
    sides = itertools.pairwise(widths)
    return [{"cheby_coeffs": RNG.normal(0, 0.3, size=(*side, 3)).astype(np.float32)} for side in sides]


def forward(layer: Tensors, x: Array) -> Array:
    return np.asarray(chebyshev(layer["cheby_coeffs"], np.tanh(x)))


def even(x: Array) -> Array:
    """A LayerNorm without weights."""
    return np.asarray((x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5))


def computes(kan: Kan, expected: Callable[[Array], Array]) -> None:
    x = RNG.normal(0, 2, size=(9, kan.n_inputs))
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, expected(x), rtol=0, atol=1e-12)


SQUARE = cheby(4, 4, 4)
A, B = ((lambda x, layer=layer: forward(layer, x)) for layer in SQUARE)
NORM = {f"ln0.{key}": RNG.normal(size=4).astype(np.float32) for key in ("weight", "bias")}
SCALE, BIAS = (NORM[key].astype(np.float64) for key in ("ln0.weight", "ln0.bias"))


def norm(x: Array) -> Array:
    return even(x) * SCALE + BIAS


TOLD: dict[str, tuple[tuple[str, ...], Callable[[Array], Array]]] = {
    "chain": ((), lambda x: B(A(x))),
    "residual": (("flow=residual",), lambda x: (y := x + A(x)) + B(y)),
    "parallel": (("flow=parallel",), lambda x: A(x) + B(x)),
    "reversed": (("flow=reversed",), lambda x: A(B(x))),
    "repeat": (("flow=repeat:2",), lambda x: B(B(A(A(x))))),
    "tanh between": (("between=tanh",), lambda x: B(np.tanh(A(x)))),
    "norm between": (("between=layernorm",), lambda x: B(even(A(x)))),
    "residual with tanh": (("flow=residual", "between=tanh"), lambda x: (y := np.tanh(x + A(x))) + B(y)),
    "residual with tanh inside": (("flow=residual-inside", "between=tanh"), lambda x: (y := x + A(x)) + B(np.tanh(y))),
    "reversed with tanh": (("flow=reversed", "between=tanh"), lambda x: A(np.tanh(B(x)))),
    "repeated with tanh": (("flow=repeat:2", "between=tanh"), lambda x: B(np.tanh(B(np.tanh(A(np.tanh(A(x)))))))),
    "before and after": (
        ("before=layernorm", "after=softmax"),
        lambda x: (p := np.exp(B(A(even(x))))) / p.sum(axis=1, keepdims=True),
    ),
}
WITH_NORM: dict[str, tuple[tuple[str, ...], Callable[[Array], Array]]] = {
    "chain": ((), lambda x: B(norm(A(x)))),
    "tanh after": (("between=tanh",), lambda x: B(np.tanh(norm(A(x))))),
    "tanh before": (("between=tanh-then-norm",), lambda x: B(norm(np.tanh(A(x))))),
    "residual": (("flow=residual",), lambda x: (y := norm(x + A(x))) + B(y)),
    "norm inside": (("flow=residual-inside",), lambda x: (y := x + A(x)) + B(norm(y))),
    "reversed": (("flow=reversed",), lambda x: A(norm(B(x)))),
    "a scale and a shift": (("norm=affine",), lambda x: B(A(x) * SCALE + BIAS)),
}


CASES = {name: ({}, *told) for name, told in TOLD.items()}
CASES |= {f"{name}, with a norm": (NORM, *told) for name, told in WITH_NORM.items()}


@spread("name", CASES, 4)
def test_what_is_told_is_done(tmp_path: Path, name: str) -> None:
    extra, options, expected = CASES[name]
    path = save(tmp_path, stacked(SQUARE, "kan") | extra)
    computes(read(path, *options)[0], expected)
    exported(path, *options)


def test_what_is_not_told_is_listed(tmp_path: Path) -> None:
    requested = reading(save(tmp_path, stacked(SQUARE))).options
    assert requested.assumed["architecture"] == "layers.0, layers.1 one after the other, nothing between"
    assert [requested.assumed[key] for key in ("flow", "between", "before", "after")] == ["chain", *["nothing"] * 3]
    assert {"residual", "parallel", "reversed", "repeat:2"} <= set(requested.open["flow"])
    assert {"tanh", "silu", "layernorm"} <= set(requested.open["between"])
    assert all(word in requested.alternatives()["architecture"] for word in ("--module", "recurrence"))


def test_layers_with_names_of_a_recurrent_cell_are_not_taken_for_a_chain(tmp_path: Path) -> None:
    layers = cheby(3, 4, 4)
    for names in (("x2h", "h2h"), ("cell.inner", "cell.outer"), ("lstm.0", "lstm.1"), ("KANCell.0", "KANCell.1")):
        tensors = {f"{name}.{key}": v for name, layer in zip(names, layers, strict=True) for key, v in layer.items()}
        error = refuse(tmp_path, tensors, kind=OpenQuestion, said="names of a recurrent cell")
        assert (error.key, "--module" in error.hint) == ("flow", True)
        read(tmp_path / "model.safetensors", "flow=chain")
    for name in ("excellent", "through", "cells_of_excel"):
        read(save(tmp_path, stacked(layers, name)))


def test_what_cannot_be_is_not_offered_and_not_done(tmp_path: Path) -> None:
    path = save(tmp_path, stacked(cheby(5, 4, 3)))
    requested = reading(path).options
    assert requested.assumed["flow"] == "chain"
    assert "flow" not in requested.open
    for flow in ("residual", "parallel", "reversed", "repeat:2"):
        with pytest.raises(FamilyError, match="does not fit") as caught:
            read(path, f"flow={flow}")
        assert "--module" in caught.value.hint
    for option in ("flow=residul", "between=tahn"):
        with pytest.raises(OptionError, match=f"option {option.partition('=')[0]}"):
            read(path, option)


def test_layers_beside_one_another_must_be_told(tmp_path: Path) -> None:
    layers = cheby(5, 3) + cheby(5, 3)
    error = refuse(tmp_path, stacked(layers), kind=OpenQuestion)
    assert (error.key, error.among) == ("flow", ("parallel",))
    assert "do not follow one another" in error.message
    kan, _ = read(tmp_path / "model.safetensors", "flow=parallel")
    computes(kan, lambda x: forward(layers[0], x) + forward(layers[1], x))


def test_a_gap_in_the_numbers_must_be_told(tmp_path: Path) -> None:
    """Sequential(KAN, Tanh, KAN), as its file has it."""
    a, b = SQUARE
    tensors = {f"net.{at}.{key}": value for at, layer in ((0, a), (2, b)) for key, value in layer.items()}
    error = refuse(tmp_path, tensors, kind=OpenQuestion)
    assert error.key == "between"
    assert error.among[0] == "nothing"
    computes(read(tmp_path / "model.safetensors", "between=tanh")[0], lambda x: B(np.tanh(A(x))))
    computes(read(tmp_path / "model.safetensors", "between=nothing")[0], lambda x: B(A(x)))


def test_an_order_that_names_do_not_tell_must_be_told(tmp_path: Path) -> None:
    a, b = SQUARE
    tensors = {f"{name}.{key}": value for name, layer in (("up", a), ("down", b)) for key, value in layer.items()}
    error = refuse(tmp_path, tensors, kind=OpenQuestion)
    assert sorted(error.among) == ["down,up", "up,down"]
    computes(read(tmp_path / "model.safetensors", "order=up,down")[0], lambda x: B(A(x)))
