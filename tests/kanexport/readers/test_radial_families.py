"""FastKAN, FasterKAN, RBF-KAN and their copies: radial functions with shared centres, compared with the formulas."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import OptionError
from tests.support import small_checkpoints as small

RANGE = (-1.5, 2.5)
STACK = ("layers.0.", "layers.1.")
BIAS = "base_linear.bias"


def centred(n: int, m: int, k: int = 5, *, norm: bool = True, base: bool = False) -> small.Tensors:
    tensors = {"rbf.grid": np.linspace(*RANGE, k), "spline_linear.weight": small.normal(1, m, n * k)}
    if norm:
        tensors |= {"layernorm.weight": 1 + 0.3 * small.normal(2, n), "layernorm.bias": small.normal(3, n)}
    return small.floats(tensors | (beside(n, m) if base else {}))


def beside(n: int, m: int) -> small.Tensors:
    return {"base_linear.weight": small.normal(4, m, n), BIAS: small.normal(5, m)}


def fastkan(n: int, m: int, k: int = 5, *, norm: bool = True, base: bool = True) -> small.Tensors:
    return centred(n, m, k, norm=norm, base=base)


def fasterkan(n: int, m: int, k: int = 5) -> small.Tensors:
    return {**centred(n, m, k), "rbf.inv_denominator": np.float32(0.5)}


def rbf_kan(n: int, m: int, k: int = 5, *, base: bool = True) -> small.Tensors:
    tensors = {"rbf_linear.grid": np.linspace(*RANGE, k), "rbf_linear.spline_weight": small.normal(1, n * k, m)}
    return small.floats(tensors | (beside(n, m) if base else {}))


def weights(part: small.Tensors, n: int) -> Any:
    """[O, I, C]"""
    if "spline_weight" in part:
        return part["spline_weight"]
    flat = part.get("spline_linear.weight")
    flat = part["rbf_linear.spline_weight"].T if flat is None else flat
    return flat.reshape(len(flat), n, -1)


def grouped(part: small.Tensors, n: int) -> Any:
    """Centre by centre, as FasterKAN's CUDA code has it."""
    flat = part["spline_linear.weight"]
    return flat.reshape(len(flat), -1, n).swapaxes(1, 2)


def radial(
    function: Callable[[float], float],
    act: Callable[[float], float] = small.silu,
    *,
    kernel: Callable[[small.Tensors, int], Any] = weights,
    norm: bool = True,
    raw: bool = True,
) -> small.Edges:
    """`function(h_i - g_c)` times its weight, and a base branch. h is the row, normalised if the layer can and `norm`
    is true; the base branch takes the row as it is, or normalised if `raw` is false."""

    def edges(part: small.Tensors, row: list[float]) -> Any:
        h = small.layernorm(part, row) if "layernorm.weight" in part else row
        centres = part.get("rbf.grid", part.get("rbf_linear.grid"))
        values = [[function(u - g) for g in centres] for u in (h if norm else row)]
        own = np.einsum("oic,ic->io", kernel(part, len(row)), values)
        base = part.get("base_linear.weight", np.zeros(own.T.shape)).T
        return own + base * np.array([act(u) for u in (row if raw else h)])[:, None]

    return edges


def gaussian(d: float) -> Callable[[float], float]:
    return lambda u: math.exp(-((u / d) ** 2))


def secant(rate: float) -> Callable[[float], float]:
    return lambda u: 1 - math.tanh(u * rate) ** 2


SHAPES = [(3, 2), (1, 2), (3, 1), (3, 3), (1, 1)]


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("base", [True, False])
def test_fastkan_with_and_without_its_branches(tmp_path: Path, norm: bool, base: bool) -> None:
    for n, m in SHAPES:
        tensors = fastkan(n, m, norm=norm, base=base)
        result = small.check(small.save(tmp_path, tensors), tensors, radial(gaussian(1.0)), bias=BIAS)
        assert result.family == "fastkan"
        assert result.kan.edge_class == ("B" if norm else "A")
        assumed = {"denominator": "1.0"} | ({"layernorm_eps": "1e-5", "layernorm": "spline"} if norm else {})
        assert result.assumed == assumed | ({"base_activation": "silu"} if base else {})


def test_fasterkan_and_rbf_kan(tmp_path: Path) -> None:
    for n, m, k in ((3, 2, 5), (1, 2, 8), (3, 1, 1), (4, 4, 2)):
        tensors = fasterkan(n, m, k)
        result = small.check(small.save(tmp_path, tensors), tensors, radial(secant(1.0)))
        assert (result.family, result.kan.edge_class) == ("fasterkan", "B")
        assert result.assumed == {"inv_denominator": "unused", "layernorm_eps": "1e-5"}
    for (n, m, k), base in itertools.product(((3, 2, 5), (1, 2, 8), (3, 1, 2), (4, 4, 5)), (True, False)):
        tensors, d = rbf_kan(n, m, k, base=base), (RANGE[1] - RANGE[0]) / (k - 1)
        result = small.check(small.save(tmp_path, tensors), tensors, radial(gaussian(d)), bias=BIAS)
        assert (result.family, result.kan.edge_class) == ("rbf-kan", "A")
        assert result.assumed == {"denominator": repr(d)} | ({"base_activation": "silu"} if base else {})


def test_a_stack_of_fastkan_layers_of_two_grids_in_float64(tmp_path: Path) -> None:
    layers = [fastkan(3, 4), fastkan(4, 2, norm=False)]
    layers[0]["rbf.grid"] = np.linspace(-1.2, 0.2, 5)
    tensors = small.floats(small.stacked(layers), "float64")
    path = small.save(tmp_path, tensors)
    kan, _ = small.read(path)
    assert kan.dtype == "float64"
    spacings = [(0.2 - -1.2) / 4, 1.0]
    assert [layer.terms[0].basis.denominator for layer in kan.layers] == spacings
    assert small.exported(path).source.options_assumed["denominator"] == f"{spacings[0]!r}, {spacings[1]!r}"
    small.check(path, tensors, radial(gaussian(0.7)), "denominator=0.7", prefixes=STACK, bias=BIAS)
    manifest = small.exported(path, "denominator=0.7")
    assert manifest.source.dtype == "float64"
    assert any("--dtype float64" in note for note in manifest.notes)


def test_denominators_and_activations(tmp_path: Path) -> None:
    """The default denominator is what the constructor computed from (-1.2, 0.2), which float32 cannot hold."""
    tensors = fastkan(3, 2, 8)
    tensors["rbf.grid"] = np.linspace(-1.2, 0.2, 8).astype(np.float32)
    small.check(small.save(tmp_path, tensors), tensors, radial(gaussian((0.2 - -1.2) / 7)), bias=BIAS)
    tensors = fastkan(3, 2, 1)
    small.refuse(tmp_path, tensors, kind=OptionError)
    small.check(small.save(tmp_path, tensors), tensors, radial(gaussian(0.5)), "denominator=0.5", bias=BIAS)
    tensors = fastkan(3, 2)
    del tensors[BIAS]
    small.check(small.save(tmp_path, tensors), tensors, radial(gaussian(1.0), math.tanh), "base_activation=tanh")
    tensors = small.stacked([rbf_kan(2, 3), rbf_kan(3, 1)])
    options = ("denominator=0.4", "base_activation=tanh")
    small.check(
        small.save(tmp_path, tensors), tensors, radial(gaussian(0.4), math.tanh), *options, prefixes=STACK, bias=BIAS
    )
    for option, said in (("denominator=0", "denominator"), ("base_activation=magic", "magic"), ("w=4", "'w'")):
        assert said in small.refuse(tmp_path, tensors, option).message


def test_fasterkans_stored_rate_is_used_only_when_asked_for(tmp_path: Path) -> None:
    tensors = fasterkan(3, 2)
    tensors["rbf.inv_denominator"] = np.float32(np.nan)
    small.check(small.save(tmp_path, tensors), tensors, radial(secant(1.0)))
    small.refuse(tmp_path, tensors, "inv_denominator=used", said="rate")
    tensors["rbf.inv_denominator"] = np.float32(3)
    small.check(small.save(tmp_path, tensors), tensors, radial(secant(3.0)), "inv_denominator=used")
    small.refuse(tmp_path, tensors, "inv_denominator=3", hint="unused, used")


def test_the_first_fasterkan_has_fastkans_tensors(tmp_path: Path) -> None:
    tensors = centred(3, 2)
    path = small.save(tmp_path, tensors)
    small.check(path, tensors, radial(secant(1 / 0.33)), "forward=fasterkan")
    small.check(path, tensors, radial(secant(2.0)), "forward=fasterkan", "denominator=0.5")
    options = small.reading(path).options
    assert next(iter(options.assumed)) == "forward"
    assert options.open["forward"] == ("fasterkan",)
    assert "--option forward=fasterkan" in options.words["forward"]
    assert "0.5" in small.reading(path, "forward=fasterkan").options.open["denominator"]
    assert "forward" not in small.reading(small.save(tmp_path, fastkan(3, 2))).options.assumed


def test_where_fastkans_layernorm_acts(tmp_path: Path) -> None:
    tensors = fastkan(3, 2)
    path = small.save(tmp_path, tensors)
    for place, norm, raw in (("spline", True, True), ("both", True, False), ("unused", False, True)):
        small.check(path, tensors, radial(gaussian(1.0), norm=norm, raw=raw), f"layernorm={place}", bias=BIAS)
    assert small.reading(path).options.open["layernorm"] == ("both", "unused")


@pytest.mark.parametrize("base", [True, False])
def test_fastkan_before_spline_linear_and_x_kanerfs_layer(tmp_path: Path, base: bool) -> None:
    tensors = centred(3, 2, base=base)
    tensors["spline_weight"] = tensors.pop("spline_linear.weight").reshape(2, 3, 5)
    tensors["rbf.grid"] = np.linspace(-1, 1, 5).astype(np.float32)
    path = small.save(tmp_path, tensors)
    result = small.check(path, tensors, radial(gaussian(0.5)), bias=BIAS)
    assert result.family == result.options.assumed["forward"] == "first-fastkan"
    small.check(path, tensors, radial(gaussian(1.0)), "forward=grbf", bias=BIAS)


def test_fasterkans_cuda_code_has_its_functions_centre_by_centre(tmp_path: Path) -> None:
    tensors = fasterkan(3, 2)
    path = small.save(tmp_path, tensors)
    small.check(path, tensors, radial(secant(0.5), kernel=grouped), "forward=fasterkan-cuda")
    small.check(path, tensors, radial(secant(0.5)), "inv_denominator=used")
    candidates = small.reading(path).options.open
    assert {key: values for key, values in candidates.items() if key not in small.AROUND} == {
        "inv_denominator": ("used",),
        "layernorm_eps": ("1e-3", "1e-6", "1e-8", "1e-12"),
    }
    assert candidates["forward"] == ("fasterkan-cuda",)
    small.refuse(tmp_path, tensors, "forward=fasterkan-cuda", "inv_denominator=used", said="inv_denominator")
