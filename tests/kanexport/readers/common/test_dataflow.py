"""Data flow through the layers: assumptions, optional options, and required options."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.detection import detect
from kanexport.errors import FamilyError, OpenQuestion, OptionError
from kanexport.formats import checkpoint
from kanexport.options import Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import read, refuse, save, stacked

RNG = np.random.default_rng(8)
Array = np.ndarray[Any, np.dtype[np.float64]]


def cheby(*widths: int) -> list[dict[str, Any]]:
    """ChebyKAN layers, small enough that none saturates the next one's tanh."""
    sides = itertools.pairwise(widths)
    return [{"cheby_coeffs": RNG.normal(0, 0.3, size=(*side, 3)).astype(np.float32)} for side in sides]


def forward(layer: dict[str, Any], x: Array) -> Array:
    coef = layer["cheby_coeffs"].astype(np.float64)
    return np.asarray(np.einsum("bid,iod->bo", np.cos(np.arccos(np.tanh(x))[:, :, None] * np.arange(3)), coef))


def even(x: Array) -> Array:
    """A LayerNorm without weights."""
    return np.asarray((x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5))


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
    "residual with tanh inside": (
        ("flow=residual-inside", "between=tanh"),
        lambda x: (y := x + A(x)) + B(np.tanh(y)),
    ),
    "reversed with tanh": (("flow=reversed", "between=tanh"), lambda x: A(np.tanh(B(x)))),
    "repeated with tanh": (
        ("flow=repeat:2", "between=tanh"),
        lambda x: B(np.tanh(B(np.tanh(A(np.tanh(A(x))))))),
    ),
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


CASES = [({}, name, *told) for name, told in TOLD.items()]
CASES += [(NORM, f"{name}, with a norm", *told) for name, told in WITH_NORM.items()]


@pytest.mark.parametrize(("extra", "name", "options", "expected"), CASES, ids=[case[1] for case in CASES])
def test_what_is_told_is_done(
    tmp_path: Path, extra: dict[str, Any], name: str, options: tuple[str, ...], expected: Callable[[Array], Array]
) -> None:
    path = save(tmp_path, stacked(SQUARE, "kan") | extra)
    kan, _ = read(path, *options)
    x = RNG.normal(0, 2, size=(9, 4))
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, expected(x), rtol=0, atol=1e-12)
    export(Request(path=path, repository=tmp_path / "models", options=options))


def assumed(path: Path, *options: str) -> Options:
    """Read a checkpoint with options and return them with the facts that the reader assumed."""
    loaded, supplied = checkpoint.load(path), Options.parse(options)
    detect.read(detect.detect(loaded, None)[0], loaded, supplied)
    return supplied


def test_what_is_not_told_is_listed(tmp_path: Path) -> None:
    requested = assumed(save(tmp_path, stacked(SQUARE)))
    assert requested.assumed["architecture"] == "layers.0, layers.1 one after the other, nothing between"
    assert {key: requested.assumed[key] for key in ("flow", "between", "before", "after")} == {
        "flow": "chain",
        "between": "nothing",
        "before": "nothing",
        "after": "nothing",
    }
    assert {"residual", "parallel", "reversed", "repeat:2"} <= set(requested.open["flow"])
    assert {"tanh", "silu", "layernorm"} <= set(requested.open["between"])
    assert "--module" in requested.alternatives()["architecture"]


def test_what_cannot_be_is_not_offered_and_not_done(tmp_path: Path) -> None:
    path = save(tmp_path, stacked(cheby(5, 4, 3)))
    requested = assumed(path)
    assert requested.assumed["flow"] == "chain"
    assert "flow" not in requested.open
    for flow in ("residual", "parallel", "reversed", "repeat:2"):
        with pytest.raises(FamilyError, match="does not fit") as caught:
            read(path, f"flow={flow}")
        assert "--module" in caught.value.hint
    with pytest.raises(OptionError, match="option flow"):
        read(path, "flow=residul")
    with pytest.raises(OptionError, match="option between"):
        read(path, "between=tahn")


def test_layers_beside_one_another_must_be_told(tmp_path: Path) -> None:
    layers = cheby(5, 3) + cheby(5, 3)
    error = refuse(tmp_path, stacked(layers))
    assert isinstance(error, OpenQuestion)
    assert (error.key, error.among) == ("flow", ("parallel",))
    assert "do not follow one another" in error.message
    x = RNG.normal(size=(7, 5))
    kan, _ = read(tmp_path / "model.safetensors", "flow=parallel")
    expected = forward(layers[0], x) + forward(layers[1], x)
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, expected, rtol=0, atol=1e-12)


def test_a_gap_in_the_numbers_must_be_told(tmp_path: Path) -> None:
    """Sequential(KAN, Tanh, KAN), as its file has it."""
    a, b = SQUARE
    tensors = {f"net.{at}.{key}": value for at, layer in ((0, a), (2, b)) for key, value in layer.items()}
    error = refuse(tmp_path, tensors)
    assert isinstance(error, OpenQuestion)
    assert error.key == "between"
    assert error.among[0] == "nothing"
    x = RNG.normal(size=(7, 4))
    for value, expected in (("tanh", B(np.tanh(A(x)))), ("nothing", B(A(x)))):
        kan, _ = read(tmp_path / "model.safetensors", f"between={value}")
        np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, expected, rtol=0, atol=1e-12)


def test_an_order_that_names_do_not_tell_must_be_told(tmp_path: Path) -> None:
    a, b = SQUARE
    tensors = {f"{name}.{key}": value for name, layer in (("up", a), ("down", b)) for key, value in layer.items()}
    error = refuse(tmp_path, tensors)
    assert isinstance(error, OpenQuestion)
    assert sorted(error.among) == ["down,up", "up,down"]
    x = RNG.normal(size=(7, 4))
    kan, _ = read(tmp_path / "model.safetensors", "order=up,down")
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, B(A(x)), rtol=0, atol=1e-12)
