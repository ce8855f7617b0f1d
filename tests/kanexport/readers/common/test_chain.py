"""Networks from layers: modules detected, placed by number and width, or rejected; data flow assumed or required."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import FamilyError, InvalidKan, OpenQuestion, OptionError
from kanexport.ir.model import Kan
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import (
    Tensors,
    chebyshev,
    exported,
    normal,
    read,
    reading,
    refuse,
    save,
    stacked,
    under,
)
from tests.support.tiers import spread

MODULES: dict[str, Callable[[int], Tensors]] = {
    "ln": lambda m: {"weight": normal(1, m), "bias": normal(2, m)},
    "bn": lambda m: MODULES["ln"](m) | MODULES["bare_bn"](m) | {"num_batches_tracked": np.array(7)},
    "bare_bn": lambda m: {"running_mean": normal(3, m), "running_var": 0.5 + normal(4, m) ** 2},
    "prelu": lambda m: {"weight": normal(5, m)},
    "rms": lambda m: {"weight": normal(6, m)},
    "linear": lambda m: {"weight": normal(7, m, m), "bias": normal(8, m)},
}


def model(text: str) -> Tensors:
    """Tensors of modules, as in "kan1:5>4 ln1:ln=4": a ChebyKAN layer of 5 sources and 4 destinations, and a LayerNorm
    of 4 nodes."""
    tensors: Tensors = {}
    for word in text.split():
        name, _, what = word.partition(":")
        kind, _, width = what.partition("=")
        n, _, m = what.partition(">")
        own = MODULES[kind](int(width)) if width else {"cheby_coeffs": normal(int(n), int(n), int(m), 3)}
        tensors |= {f"{name}.{key}".lstrip("."): np.asarray(value, np.float32) for key, value in own.items()}
    return tensors


def shape(folder: Path, tensors: Tensors, *options: str) -> str:
    """The network in short: "3 kan 4 layernorm kan 2", with safetensors' alphabetical keys."""
    kan, _ = read(save(folder, tensors), *options)
    words = []
    for layer in kan.layers:
        words += [step.describe().kind for step in layer.pre_steps]
        words += [f"{layer.sources}>{layer.destinations}"]
        words += [step.describe().kind for step in layer.post_steps]
    return " ".join(words)


ARRANGED = {
    "named": ("kan1:5>4 ln1:ln=4 kan2:4>3", "5>4 layernorm 4>3"),
    "the same width everywhere": ("kan1:4>4 ln1:ln=4 kan2:4>4", "4>4 layernorm 4>4"),
    "three of the same width": ("kan1:4>4 ln1:ln=4 kan2:4>4 ln2:ln=4 kan3:4>4", "4>4 layernorm 4>4 layernorm 4>4"),
    "from zero": ("kan0:4>4 ln0:ln=4 kan1:4>4", "4>4 layernorm 4>4"),
    "before the first": ("ln0:ln=5 kan1:5>4 kan2:4>3", "layernorm 5>4 4>3"),
    "after the last": ("kan1:5>4 kan2:4>3 norm:ln=3", "5>4 4>3 layernorm"),
    "each before its layer": ("ln1:ln=5 kan1:5>4 ln2:ln=4 kan2:4>4", "layernorm 5>4 layernorm 4>4"),
    "each after its layer": ("kan1:4>4 ln1:ln=4 kan2:4>3 ln2:ln=3", "4>4 layernorm 4>3 layernorm"),
    "ten and two": (
        " ".join(f"kan{at}:{at}>{at + 1}" for at in range(1, 12)) + " ln10:ln=11",
        " ".join(f"{at}>{at + 1}" + " layernorm" * (at == 10) for at in range(1, 12)),
    ),
    "cannot be derived": ("first:5>4 norm:ln=4 second:4>3", "5>4 layernorm 4>3"),
    "a number that no layer has": ("kan1:5>4 ln0:ln=5 ln1:ln=4 kan2:4>3", "layernorm 5>4 layernorm 4>3"),
    "widths against the alphabet": ("decoder:2>5 encoder:3>2", "3>2 2>5"),
    "batch norms": ("kan1:5>4 bn1:bn=4 kan2:4>3", "5>4 affine 4>3"),
    "a batch norm without weights": ("kan1:5>4 bn1:bare_bn=4 kan2:4>3", "5>4 affine 4>3"),
    "prelu": ("kan1:5>4 prelu1:prelu=1 kan2:4>3", "5>4 prelu 4>3"),
    "prelu of every node": ("kan1:5>4 prelu1:prelu=4 kan2:4>3", "5>4 prelu 4>3"),
    "an rms norm": ("kan1:5>4 rms1:rms=4 kan2:4>3", "5>4 rmsnorm 4>3"),
    "a layer norm without bias": ("kan1:5>4 ln1:rms=4 kan2:4>3", "5>4 layernorm 4>3"),
    "a norm of one node": ("kan1:5>1 ln1:ln=1 kan2:1>3", "5>1 layernorm 1>3"),
    "sequential": ("0:5>4 1:ln=4 2:4>4 3:ln=4", "5>4 layernorm 4>4 layernorm"),
    "sequential with prelu": (
        "net.0:ln=4 net.1:4>4 net.2:ln=4 net.3:prelu=1 net.4:4>4",
        "layernorm 4>4 layernorm prelu 4>4",
    ),
    "two lists": ("layers.0:4>4 layers.1:4>4 norms.0:ln=4", "4>4 layernorm 4>4"),
    "two lists in a module": ("net.layers.0:5>4 net.layers.1:4>3 net.norms.0:ln=4", "5>4 layernorm 4>3"),
    "a list and a name": ("layers.0:5>4 layers.1:4>3 norm:ln=4", "5>4 layernorm 4>3"),
    "wrapped": ("layers.0.layer:5>4 layers.1.layer:4>4 layers.2:4>3", "5>4 4>4 4>3"),
    "wrapped in a sequential": ("0.module:5>4 1:ln=4 2.module:4>3", "5>4 layernorm 4>3"),
}


@pytest.mark.parametrize("name", ARRANGED)
def test_arranged(tmp_path: Path, name: str) -> None:
    text, expected = ARRANGED[name]
    tensors = model(text)
    reported = ("norm=layernorm", "scalar=prelu")  # where a name says nothing
    assert shape(tmp_path, tensors, *reported) == expected
    for prefix in ("module.", "a.b."):
        moved = {prefix + key: value for key, value in tensors.items()}
        assert shape(tmp_path, moved, *reported) == expected


REFUSED = {
    # ln2 may stand after the last layer, and so may ln1 and ln2 before their layers.
    "a norm for every layer": ("kan1:4>4 ln1:ln=4 kan2:4>4 ln2:ln=4", "the place of ln1.*"),
    "a norm of the last layer": ("kan1:4>4 kan2:4>4 ln2:ln=4", "the place of ln2.*"),
    "a norm of the middle": ("kan1:4>4 kan2:4>4 kan3:4>4 ln2:ln=4", "the place of ln2.*"),
    "a square layer and its norm": ("kan1:4>4 ln1:ln=4", "the place of ln1.*"),
    "lists that count from other numbers": ("layers.0:4>4 layers.1:4>4 ln1:ln=4", "the place of ln1.*"),
    "no number, widths that repeat": ("first:5>4 ln:ln=4 second:4>4", "the place of ln.*"),
    "one norm for all": ("kan1:4>4 ln:ln=4 kan2:4>4", "the place of ln.*"),
    "a width that is nowhere": ("kan1:5>4 ln1:ln=7 kan2:4>3", "the place of ln1.*"),
    "a norm of one node": ("kan1:5>4 ln1:ln=1 kan2:4>3", "layernorm of 1"),
    "two in one gap": ("kan1:5>4 ln1:ln=4 prelu1:prelu=1 kan2:4>3", "ln1. and prelu1. may both precede"),
    "tanh or dropout in a sequential": ("0:5>4 2:4>3", "0.* is followed by 2.*"),
    "a gap beside a norm": ("0:5>4 1:ln=4 3:4>3", "1.* is followed by 3.*"),
    "a gap between names": ("kan1:5>4 kan3:4>3", "kan1.* is followed by kan3.*"),
    "a norm of groups": ("kan1:5>4 gn1:ln=4 kan2:4>3", "gn1.* has a weight and a bias"),
    "a batch norm that tracks nothing": ("kan1:5>4 bn1:ln=4 kan2:4>3", "depends on the batch"),
    "a norm with a neutral name": ("kan1:5>4 n1:ln=4 kan2:4>3", "n1.* has a weight and a bias"),
    "a vector with a neutral name": ("kan1:5>4 n1:rms=4 kan2:4>3", "n1.* has one number for each"),
    "a number with a neutral name": ("kan1:5>4 act:prelu=1 kan2:4>3", "act.* has one number"),
    "a linear layer": ("kan1:5>4 head:linear=4", "such as 'head."),
    "either may come first": ("encoder:4>2 decoder:2>4", "does not record the order"),
    "side by side": ("linear.q:4>4 linear.k:4>4 linear.v:4>4", "does not record the order"),
    "side by side, of other widths": ("left:3>2 right:3>2", "does not record the order"),
    "one number of two": ("kan:3>3 kan2:3>3", "does not record the order"),
    "two networks": ("a.0:4>4 b.0:4>4", "2 places: 'a.', 'b.'"),
    "a norm of another part": ("a.0:5>4 a.1:4>3 b.c.ln:ln=4", "places"),
    "a norm in a layer": ("kan1:5>4 kan1.ln:ln=5", "kan1.ln.* (layernorm) is inside"),
    "a norm in a lone layer": (":5>4 ln:ln=5", "is inside the layer (single)"),
    "blocks of one layer": ("0.kan:5>4 1.kan:4>3", "2 places: '0.', '1.'"),
    "blocks": ("0.kan:4>4 0.ln:ln=4 1.kan:4>4 1.ln:ln=4", "2 places: '0.', '1.'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    modules, text = REFUSED[name]
    refuse(tmp_path, model(modules), kind=FamilyError | OpenQuestion, said=text, hint="--architecture layers.toml")


def test_what_was_found_is_recorded_as_assumed(tmp_path: Path) -> None:
    manifest = exported(save(tmp_path, model(ARRANGED["three of the same width"][0])), "layernorm_eps=1e-3")
    assert manifest.source.options_assumed["architecture"] == (
        "kan1, ln1 (layernorm), kan2, ln2 (layernorm), kan3 one after the other, nothing else between"
    )
    assert manifest.layers[0].post_steps[0].epsilon == 1e-3


def test_what_may_have_stood_first_is_noted(tmp_path: Path) -> None:
    """Sequential(Flatten, KAN, LayerNorm, KAN): the numbers start at 1."""
    tensors = model("net.1:5>4 net.2:ln=4 net.3:4>3")
    kan, _ = read(save(tmp_path, tensors))
    assert "start at 1" in kan.notes[0]
    assert not read(tmp_path / "model.safetensors", "prefix=net.1.")[0].notes
    assert not read(save(tmp_path, model(ARRANGED["sequential"][0])))[0].notes


def test_a_folded_batch_norm_is_the_formula(tmp_path: Path) -> None:
    tensors = model("kan1:5>4 bn1:bn=4 kan2:4>3")
    kan, _ = read(save(tmp_path, tensors))
    part = under(tensors, "bn1.")
    x = normal(9, 6, 4)
    expected = (x - part["running_mean"]) / np.sqrt(part["running_var"] + 1e-5) * part["weight"] + part["bias"]
    np.testing.assert_allclose(kan.layers[0].post_steps[0].evaluate(x), expected, rtol=1e-12)
    tensors["bn1.running_var"][2] = -1
    refuse(tmp_path, tensors, kind=InvalidKan)


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
