"""GR-KAN: KAT's MLP, single layers, Sequentials and blocks, compared with the formula in loops."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.bases.rational import Rational
from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.ir.model import Kan
from kanexport.options import Options
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import Tensors, floats, model, normal, reading, refuse, save


def act(groups: int, seed: int, *, rows: int = 1, above: int = 6, below: int = 4) -> Tensors:
    return floats(
        {"weight_numerator": normal(seed, rows, above), "weight_denominator": normal(seed + 50, groups, below)}
    )


def fc(n: int, m: int, seed: int, *, bias: bool = True) -> Tensors:
    weight = {"weight": normal(seed + 100, m, n) / 3}
    return floats(weight | ({"bias": normal(seed + 150, m)} if bias else {}))


def kat(prefix: str = "", n: int = 8, hidden: int = 4, m: int = 3) -> Tensors:
    """The key order of the library: fc1, act1, act2, fc2."""
    return model(
        {
            f"{prefix}fc1": fc(n, hidden, 1),
            f"{prefix}act1": act(4, 2),
            f"{prefix}act2": act(2, 3),
            f"{prefix}fc2": fc(hidden, m, 4),
        }
    )


def rational(x: Any, above: Any, below: Any, kind: str) -> Any:
    """The function of one source with these numbers."""
    inner = abs(x) if kind == "abs" else x
    weights = below if kind == "outer" else abs(below)
    beneath = sum(b * inner ** (k + 1) for k, b in enumerate(weights))
    return sum(a * x**k for k, a in enumerate(above)) / (1 + (abs(beneath) if kind == "outer" else beneath))


def expected(tensors: Tensors, order: list[str], x: np.ndarray, kind: str = "abs") -> list[np.ndarray]:
    """Edge values of each (act, fc) pair, and the output last."""
    actual, tensors = [], {key: value.astype(np.float64) for key, value in tensors.items()}
    for first, second in zip(order[::2], order[1::2], strict=True):
        above, below = (tensors[f"{first}.weight_{name}"] for name in ("numerator", "denominator"))
        weight = tensors[f"{second}.weight"]
        m, n = weight.shape
        groups = np.arange(n) // (n // len(below))
        values = [rational(x[:, i], above[at % len(above)], below[at], kind) for i, at in enumerate(groups)]
        edges = np.stack(values, axis=1)[:, :, None] * weight.T
        actual.append(edges)
        x = edges.sum(axis=1) + tensors.get(f"{second}.bias", np.zeros(m))
    return [*actual, x]


def read(folder: Path, tensors: Tensors, *pairs: str) -> tuple[Kan, Options]:
    result = reading(save(folder, tensors), *pairs)
    assert result.family == "gr-kan"
    return result.kan, result.options


def check(folder: Path, tensors: Tensors, order: list[str], *pairs: str, kind: str = "abs") -> Options:
    """Every edge and the output against the formula."""
    kan, options = read(folder, tensors, *pairs)
    x = np.random.default_rng(7).normal(size=(11, kan.n_inputs)) * 2
    *edges, y = expected(tensors, order, x, kind)
    trace = float64_reference.evaluate(kan, x)
    for layer, inputs, values in zip(kan.layers, trace.inputs, edges, strict=True):
        actual = np.concatenate([part for _, part, _ in float64_reference.edges(layer, inputs)])
        np.testing.assert_allclose(actual, values, rtol=0, atol=1e-11 * np.abs(values).max())
    np.testing.assert_allclose(trace.y, y, rtol=0, atol=1e-11 * np.abs(y).max())
    return options


KAT = ["act1", "fc1", "act2", "fc2"]


def test_kats_mlp_at_any_prefix(tmp_path: Path) -> None:
    for prefix in ("", "mlp.", "blocks.3.mlp."):
        order = [prefix + name for name in KAT]
        options = check(tmp_path, kat(prefix), order)
        assert options.assumed == {"denominator": "abs", "order": ",".join(order)}
        assert options.open["denominator"] == ("signed", "outer")


def test_other_denominators_are_an_option(tmp_path: Path) -> None:
    """The fallback's, and the paper's: 1 + |sum|."""
    x, results = np.full((1, 8), -1.0), []
    for kind in ("abs", "signed", "outer"):
        options = check(tmp_path, kat(), KAT, f"denominator={kind}", kind=kind)
        assert options.explicit == {"denominator": kind}
        results.append(float64_reference.evaluate(read(tmp_path, kat(), f"denominator={kind}")[0], x).y)
    assert all(np.abs(first - second).max() > 0.01 for first, second in itertools.pairwise(results))


def test_a_lone_layer(tmp_path: Path) -> None:
    names = [("rational", "linear"), ("act", "fc"), ("0", "1"), ("net.0", "net.1"), ("layer.act", "layer.proj")]
    for first, second in (*names, ("2", "4")):
        check(tmp_path, model({second: fc(6, 6, 1, bias=False), first: act(3, 2)}), [first, second])


def test_a_layer_can_be_one_module(tmp_path: Path) -> None:
    apart, x = model({"act": act(2, 1), "fc": fc(4, 3, 2)}), normal(7, 5, 4)
    for prefix in ("", "layer.", "layers.0."):
        both = {prefix + key: value for key, value in (act(2, 1) | fc(4, 3, 2)).items()}
        kan, options = read(tmp_path, both)
        y = expected(apart, ["act", "fc"], x)[-1]
        np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, y, rtol=0, atol=1e-12)
        assert options.assumed == {"denominator": "abs"}
    twice = both | {"layers.1." + key: value for key, value in (act(1, 3) | fc(3, 2, 4)).items()}
    assert [layer.destinations for layer in read(tmp_path, twice)[0].layers] == [3, 2]


def test_a_sequential_knows_its_order(tmp_path: Path) -> None:
    order = [str(at) for at in range(12)]
    parts = {name: act(1, at) if at % 2 == 0 else fc(2, 2, at) for at, name in enumerate(order)}
    options = check(tmp_path, model(dict(sorted(parts.items()))), order)
    assert options.assumed["order"] == ",".join(order)


def test_numbered_blocks_follow_one_another(tmp_path: Path) -> None:
    lone = model(
        {"layers.0.act": act(2, 1), "layers.0.fc": fc(4, 2, 2), "layers.1.act": act(1, 3), "layers.1.fc": fc(2, 3, 4)}
    )
    check(tmp_path, lone, ["layers.0.act", "layers.0.fc", "layers.1.act", "layers.1.fc"])
    both = kat("blocks.0.mlp.", m=8) | kat("blocks.1.mlp.")
    refuse(tmp_path, both, kind=FamilyError, said="2 places", hint="prefix=blocks.0.mlp.")
    check(tmp_path, both, ["blocks.1.mlp." + name for name in KAT], "prefix=blocks.1.mlp.")
    everything = [f"blocks.{at}.mlp.{name}" for at in (0, 1) for name in KAT]
    check(tmp_path, both, everything, "order=" + ",".join(everything))


def test_an_order_of_ones_own(tmp_path: Path) -> None:
    """rational_kat_cu's example: fc1, activation, fc2."""
    tensors = model({"fc1": fc(3, 4, 1), "activation": act(2, 2), "fc2": fc(4, 2, 3)})
    refuse(tmp_path, tensors, kind=FamilyError, hint="--option order=")
    kan, _ = read(tmp_path, tensors, "order=fc1, activation, fc2")
    x = normal(0, 5, 3)
    hidden = x @ tensors["fc1.weight"].astype(float).T + tensors["fc1.bias"]
    y = expected(tensors, ["activation", "fc2"], hidden)[-1]
    np.testing.assert_allclose(float64_reference.evaluate(kan, x).y, y, rtol=0, atol=1e-12)
    refuse(tmp_path, tensors, "order=fc1,fc2", said="does not have activation")
    refuse(tmp_path, tensors, "order=fc1,act,fc2", said="'act'")
    refuse(tmp_path, tensors, "order=fc1,activation,fc2,fc1", said="twice")
    refuse(tmp_path, tensors, "order=fc2,fc1,activation", said="followed by nothing")


def test_a_normalisation_between_is_used_where_its_place_is_known(tmp_path: Path) -> None:
    norm = floats({"weight": normal(0, 4), "bias": normal(1, 4)})
    tensors = model({"0": norm, "1": act(2, 2), "2": fc(4, 2, 3)})
    kan, options = read(tmp_path, tensors)
    assert kan.edge_class == "B"
    assert options.assumed == {"denominator": "abs", "layernorm_eps": "1e-5", "norm": "layernorm", "order": "0,1,2"}
    assert "groupnorm:2" in options.open["norm"]
    named = kat() | model({"norm": norm})
    refuse(tmp_path, named, kind=FamilyError)
    check(tmp_path, named, KAT, "order=act1,fc1,act2,fc2")  # KAT itself keeps a norm it never calls


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    tensors = model({"act": act(4, 1), "fc": fc(6, 2, 2)})
    refuse(tmp_path, tensors, said="4 groups, which do not divide its 6 channels")
    refuse(tmp_path, tensors, "num_groups=3", said="num_groups is 3")
    refuse(tmp_path, tensors, "denominator=maybe", kind=OptionError)
    wrong = kat()
    wrong["act2.weight_denominator"][1, 2] = np.nan
    refuse(tmp_path, wrong, kind=InvalidKan, said="act2.")
    gap = model({"0": act(1, 1), "1": fc(2, 2, 2), "3": act(1, 3), "4": fc(2, 2, 4)})
    refuse(tmp_path, gap, said="1.* is followed by 3.*")
    check(tmp_path, gap, ["0", "1", "3", "4"], "order=0,1,3,4")
    foreign = kat("mlp.") | {"conv.weight": np.ones((2, 2, 3, 3), np.float32)}
    refuse(tmp_path, foreign, said="conv.weight")
    check(tmp_path, foreign, ["mlp." + name for name in KAT], "prefix=mlp.")


def test_the_degree_is_limited() -> None:
    """Every degree is a few operators of the graph."""
    assert Rational(np.ones((1, 1001)), np.ones((1, 1000))).degree == 1000
    for above, below in ((1002, 4), (6, 1001)):
        with pytest.raises(InvalidKan, match="rational function has degree 1001, expected at most 1000") as error:
            Rational(np.ones((1, above)), np.ones((1, below)))
        assert error.value.code == "network-too-large"
