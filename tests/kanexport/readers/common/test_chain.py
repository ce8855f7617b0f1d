"""Modules between layers: detected, placed by number and width, or rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanexport.errors import FamilyError, InvalidKan, OpenQuestion
from kanexport.options import Options
from kanexport.readers.common import order
from kanexport.readers.common.order import OtherModule
from tests.support.small_checkpoints import exported, read, refuse, save, under

RNG = np.random.default_rng(3)
MODULES = {
    "ln": lambda m: {"weight": RNG.normal(size=m), "bias": RNG.normal(size=m)},
    "bn": lambda m: {
        "weight": RNG.normal(size=m),
        "bias": RNG.normal(size=m),
        "running_mean": RNG.normal(size=m),
        "running_var": RNG.uniform(0.5, 2, size=m),
        "num_batches_tracked": np.array(7),
    },
    "bare_bn": lambda m: {"running_mean": RNG.normal(size=m), "running_var": RNG.uniform(0.5, 2, size=m)},
    "prelu": lambda m: {"weight": RNG.normal(size=m)},
    "rms": lambda m: {"weight": RNG.normal(size=m)},
    "linear": lambda m: {"weight": RNG.normal(size=(m, m)), "bias": RNG.normal(size=m)},
}


def model(**modules: Any) -> dict[str, Any]:
    """Tensors of ChebyKAN layers, given by (n, m), and of other modules, by (kind, width).
    A name's __ is a dot."""
    tensors = {}
    for name, (first, second) in modules.items():
        actual = (
            MODULES[first](second) if isinstance(first, str) else {"cheby_coeffs": RNG.normal(size=(first, second, 3))}
        )
        prefix = name.replace("__", ".").strip("_") + "."
        tensors |= {prefix + key: np.asarray(value, dtype=np.float32) for key, value in actual.items()}
    return tensors


def shape(folder: Path, tensors: dict[str, Any], *options: str) -> str:
    """The network in short: "3 kan 4 layernorm kan 2", with safetensors' alphabetical keys."""
    kan, _ = read(save(folder, tensors), *options)
    words = []
    for layer in kan.layers:
        words += [step.describe().kind for step in layer.pre_steps]
        words += [f"{layer.sources}>{layer.destinations}"]
        words += [step.describe().kind for step in layer.post_steps]
    return " ".join(words)


ARRANGED = {
    "named": (model(kan1=(5, 4), ln1=("ln", 4), kan2=(4, 3)), "5>4 layernorm 4>3"),
    "the same width everywhere": (model(kan1=(4, 4), ln1=("ln", 4), kan2=(4, 4)), "4>4 layernorm 4>4"),
    "three of the same width": (
        model(kan1=(4, 4), ln1=("ln", 4), kan2=(4, 4), ln2=("ln", 4), kan3=(4, 4)),
        "4>4 layernorm 4>4 layernorm 4>4",
    ),
    "from zero": (model(kan0=(4, 4), ln0=("ln", 4), kan1=(4, 4)), "4>4 layernorm 4>4"),
    "before the first": (model(ln0=("ln", 5), kan1=(5, 4), kan2=(4, 3)), "layernorm 5>4 4>3"),
    "after the last": (model(kan1=(5, 4), kan2=(4, 3), norm=("ln", 3)), "5>4 4>3 layernorm"),
    "each before its layer": (
        model(ln1=("ln", 5), kan1=(5, 4), ln2=("ln", 4), kan2=(4, 4)),
        "layernorm 5>4 layernorm 4>4",
    ),
    "each after its layer": (
        model(kan1=(4, 4), ln1=("ln", 4), kan2=(4, 3), ln2=("ln", 3)),
        "4>4 layernorm 4>3 layernorm",
    ),
    "ten and two": (
        model(**{f"kan{at}": (at, at + 1) for at in range(1, 12)}, ln10=("ln", 11)),
        " ".join(f"{at}>{at + 1}" + " layernorm" * (at == 10) for at in range(1, 12)),
    ),
    "cannot be derived": (model(first=(5, 4), norm=("ln", 4), second=(4, 3)), "5>4 layernorm 4>3"),
    "batch norms": (model(kan1=(5, 4), bn1=("bn", 4), kan2=(4, 3)), "5>4 affine 4>3"),
    "a batch norm without weights": (model(kan1=(5, 4), bn1=("bare_bn", 4), kan2=(4, 3)), "5>4 affine 4>3"),
    "prelu": (model(kan1=(5, 4), prelu1=("prelu", 1), kan2=(4, 3)), "5>4 prelu 4>3"),
    "prelu of every node": (model(kan1=(5, 4), prelu1=("prelu", 4), kan2=(4, 3)), "5>4 prelu 4>3"),
    "an rms norm": (model(kan1=(5, 4), rms1=("rms", 4), kan2=(4, 3)), "5>4 rmsnorm 4>3"),
    "a layer norm without bias": (model(kan1=(5, 4), ln1=("rms", 4), kan2=(4, 3)), "5>4 layernorm 4>3"),
    "a norm of one node": (model(kan1=(5, 1), ln1=("ln", 1), kan2=(1, 3)), "5>1 layernorm 1>3"),
    "sequential": (model(_0=(5, 4), _1=("ln", 4), _2=(4, 4), _3=("ln", 4)), "5>4 layernorm 4>4 layernorm"),
    "sequential with prelu": (
        model(net__0=("ln", 4), net__1=(4, 4), net__2=("ln", 4), net__3=("prelu", 1), net__4=(4, 4)),
        "layernorm 4>4 layernorm prelu 4>4",
    ),
    "two lists": (
        model(layers__0=(4, 4), layers__1=(4, 4), norms__0=("ln", 4)),
        "4>4 layernorm 4>4",
    ),
    "two lists in a module": (
        model(net__layers__0=(5, 4), net__layers__1=(4, 3), net__norms__0=("ln", 4)),
        "5>4 layernorm 4>3",
    ),
    "a list and a name": (model(layers__0=(5, 4), layers__1=(4, 3), norm=("ln", 4)), "5>4 layernorm 4>3"),
    "wrapped": (
        model(layers__0__layer=(5, 4), layers__1__layer=(4, 4), layers__2=(4, 3)),
        "5>4 4>4 4>3",
    ),
    "wrapped in a sequential": (model(_0__module=(5, 4), _1=("ln", 4), _2__module=(4, 3)), "5>4 layernorm 4>3"),
}


@pytest.mark.parametrize("name", ARRANGED)
def test_arranged(tmp_path: Path, name: str) -> None:
    tensors, expected = ARRANGED[name]
    reported = ("norm=layernorm", "scalar=prelu")  # where a name says nothing
    assert shape(tmp_path, tensors, *reported) == expected
    for prefix in ("module.", "a.b."):
        moved = {prefix + key: value for key, value in tensors.items()}
        assert shape(tmp_path, moved, *reported) == expected


REFUSED = {
    # ln2 may stand after the last layer, and so may ln1 and ln2 before their layers.
    "a norm for every layer": (model(kan1=(4, 4), ln1=("ln", 4), kan2=(4, 4), ln2=("ln", 4)), "the place of ln1.*"),
    "a norm of the last layer": (model(kan1=(4, 4), kan2=(4, 4), ln2=("ln", 4)), "the place of ln2.*"),
    "a norm of the middle": (model(kan1=(4, 4), kan2=(4, 4), kan3=(4, 4), ln2=("ln", 4)), "the place of ln2.*"),
    "a square layer and its norm": (model(kan1=(4, 4), ln1=("ln", 4)), "the place of ln1.*"),
    "lists that count from other numbers": (
        model(layers__0=(4, 4), layers__1=(4, 4), ln1=("ln", 4)),
        "the place of ln1.*",
    ),
    "no number, widths that repeat": (model(first=(5, 4), ln=("ln", 4), second=(4, 4)), "the place of ln.*"),
    "one norm for all": (model(kan1=(4, 4), ln=("ln", 4), kan2=(4, 4)), "the place of ln.*"),
    "a width that is nowhere": (model(kan1=(5, 4), ln1=("ln", 7), kan2=(4, 3)), "the place of ln1.*"),
    "a norm of one node": (model(kan1=(5, 4), ln1=("ln", 1), kan2=(4, 3)), "layernorm of 1"),
    "two in one gap": (
        model(kan1=(5, 4), ln1=("ln", 4), prelu1=("prelu", 1), kan2=(4, 3)),
        "ln1. and prelu1. may both precede",
    ),
    "tanh or dropout in a sequential": (model(_0=(5, 4), _2=(4, 3)), "0.* is followed by 2.*"),
    "a gap beside a norm": (model(_0=(5, 4), _1=("ln", 4), _3=(4, 3)), "1.* is followed by 3.*"),
    "a gap between names": (model(kan1=(5, 4), kan3=(4, 3)), "kan1.* is followed by kan3.*"),
    "a norm of groups": (model(kan1=(5, 4), gn1=("ln", 4), kan2=(4, 3)), "gn1.* has a weight and a bias"),
    "a batch norm that tracks nothing": (model(kan1=(5, 4), bn1=("ln", 4), kan2=(4, 3)), "depends on the batch"),
    "a norm with a neutral name": (model(kan1=(5, 4), n1=("ln", 4), kan2=(4, 3)), "n1.* has a weight and a bias"),
    "a vector with a neutral name": (model(kan1=(5, 4), n1=("rms", 4), kan2=(4, 3)), "n1.* has one number for each"),
    "a number with a neutral name": (model(kan1=(5, 4), act=("prelu", 1), kan2=(4, 3)), "act.* has one number"),
    "a linear layer": (model(kan1=(5, 4), head=("linear", 4)), "such as 'head."),
    "two networks": (model(a__0=(4, 4), b__0=(4, 4)), "2 places: 'a.', 'b.'"),
    "a norm of another part": (model(a__0=(5, 4), a__1=(4, 3), b__c__ln=("ln", 4)), "places"),
    "a norm in a layer": (model(kan1=(5, 4), kan1__ln=("ln", 5)), "kan1.ln.* (layernorm) is inside"),
    "a norm in a lone layer": (
        {"cheby_coeffs": np.ones((5, 4, 3), np.float32)} | model(ln=("ln", 5)),
        "is inside the layer (single)",
    ),
    "blocks of one layer": (model(_0__kan=(5, 4), _1__kan=(4, 3)), "2 places: '0.', '1.'"),
    "blocks": (model(_0__kan=(4, 4), _0__ln=("ln", 4), _1__kan=(4, 4), _1__ln=("ln", 4)), "2 places: '0.', '1.'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    tensors, text = REFUSED[name]
    refuse(tmp_path, tensors, kind=FamilyError | OpenQuestion, said=text, hint="--architecture layers.toml")


def test_what_was_found_is_recorded_as_assumed(tmp_path: Path) -> None:
    manifest = exported(save(tmp_path, ARRANGED["three of the same width"][0]), "layernorm_eps=1e-3")
    assert manifest.source.options_assumed["architecture"] == (
        "kan1, ln1 (layernorm), kan2, ln2 (layernorm), kan3 one after the other, nothing else between"
    )
    assert manifest.layers[0].post_steps[0].epsilon == 1e-3


def test_what_may_have_stood_first_is_noted(tmp_path: Path) -> None:
    """Sequential(Flatten, KAN, LayerNorm, KAN): the numbers start at 1."""
    tensors = model(net__1=(5, 4), net__2=("ln", 4), net__3=(4, 3))
    kan, _ = read(save(tmp_path, tensors))
    assert "start at 1" in kan.notes[0]
    assert not read(tmp_path / "model.safetensors", "prefix=net.1.")[0].notes
    assert not read(save(tmp_path, ARRANGED["sequential"][0]))[0].notes


def test_a_folded_batch_norm_is_the_formula(tmp_path: Path) -> None:
    tensors = model(kan1=(5, 4), bn1=("bn", 4), kan2=(4, 3))
    kan, _ = read(save(tmp_path, tensors))
    part = under(tensors, "bn1.")
    x = RNG.normal(size=(6, 4))
    expected = (x - part["running_mean"]) / np.sqrt(part["running_var"] + 1e-5) * part["weight"] + part["bias"]
    np.testing.assert_allclose(kan.layers[0].post_steps[0].evaluate(x), expected, rtol=1e-12)
    tensors["bn1.running_var"][2] = -1
    refuse(tmp_path, tensors, kind=InvalidKan)


# Networks made at random, and all their modules' places forgotten.


@st.composite
def networks(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """A list of ("kan", (n, m)) and (kind, width), at most one module between two layers."""
    widths = draw(st.lists(st.integers(2, 4), min_size=2, max_size=6))
    actual: list[tuple[str, Any]] = []
    for at, width in enumerate(widths):
        if draw(st.booleans()):
            actual.append(("layernorm", width))
        if at + 1 < len(widths):
            actual.append(("kan", (width, widths[at + 1])))
    return actual


@given(networks())
def test_a_sequential_comes_back_as_it_was(network: list[tuple[str, Any]]) -> None:
    layers = {f"{at}.": side for at, (kind, side) in enumerate(network) if kind == "kan"}
    others = [OtherModule(f"{at}.", kind, side) for at, (kind, side) in enumerate(network) if kind != "kan"]
    assert order.arrange(layers, others[::-1], Options({})) == [f"{at}." for at in range(len(network))]


@given(networks(), st.data())
def test_names_are_placed_rightly_or_refused(network: list[tuple[str, Any]], data: st.DataObject) -> None:
    """Norms named by any of three habits: after the layer before them, after the layer behind
    them, or at random. An accepted order must fit. If norms are only between layers, the
    first habit must give the original order."""
    habit = data.draw(st.sampled_from(["layer before", "layer behind", "random"]))
    layers, others, truth, seen = {}, [], [], 0
    for kind, side in network:
        if kind == "kan":
            seen += 1
            layers[f"kan{seen}."] = side
            truth.append(f"kan{seen}.")
            continue
        number = {"layer before": seen, "layer behind": seen + 1}.get(habit, data.draw(st.integers(0, 9)))
        if f"ln{number}." in truth:
            return
        others.append(OtherModule(f"ln{number}.", kind, side))
        truth.append(f"ln{number}.")
    if not layers:
        return
    try:
        actual = order.arrange(layers, others, Options({}))
    except FamilyError:
        actual = []
    width = next(iter(layers.values()))[0]
    for name in actual:
        side = layers.get(name)
        assert width == (side[0] if side else next(other.width for other in others if other.prefix == name))
        width = side[1] if side else width
    between = [name for name, (kind, _) in zip(truth, network, strict=True) if kind != "kan"]
    classical = [f"ln{at}." for at in range(1, len(layers))]
    if habit == "layer before" and between == classical:
        assert actual == truth
