"""pykan's semantics, edge by edge, compared with its formulas in plain loops."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.verify import float64_reference
from tests.support.small_checkpoints import Reading, exported, reading, spline, under

SYMBOLIC: dict[str, Callable[[float], float]] = {
    **{name: getattr(math, name) for name in ("tanh", "sin", "cos")},
    "sigmoid": lambda u: 1 / (1 + math.exp(-u)),
}
BASES: dict[str, Callable[[float], float]] = {
    **SYMBOLIC,
    "identity": lambda u: u,
    "zero": lambda u: 0.0,
    "silu": lambda u: u / (1 + math.exp(min(-u, 700))),
    "relu": lambda u: max(u, 0.0),
    "softplus": lambda u: math.log1p(math.exp(u)),
    "gelu": lambda u: 0.5 * u * (1 + math.erf(u / math.sqrt(2))),
    "gelu_tanh": lambda u: 0.5 * u * (1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))),
}


class Oracle:
    """One row at a time through section 3.2 of pykan's forward, from the raw tensors."""

    def __init__(self, toy: Any, base: str = "silu") -> None:
        self.config, self.base = toy.config, BASES[base]
        self.t = under(toy.tensors, "")

    def edges(self, layer: int, x: list[float]) -> np.ndarray:
        """[n, m]"""
        part, symbolic = under(self.t, f"act_fun.{layer}."), under(self.t, f"symbolic_fun.{layer}.")
        count = part["coef"].shape[2]
        k = part["grid"].shape[1] - count - 1
        splines = [[spline(u, t, c, k) for c in range(count)] for u, t in zip(x, part["grid"].tolist(), strict=True)]
        base = part["scale_base"] * np.array([self.base(u) for u in x])[:, None]
        phi = part["mask"] * (base + part["scale_sp"] * np.einsum("ijc,ic->ij", part["coef"], splines))
        for j, i in np.argwhere(symbolic["mask"]) if self.config["symbolic_enabled"] else ():
            a, b, c, d = symbolic["affine"][j, i]
            function = SYMBOLIC[self.config[f"symbolic.funs_name.{layer}"][j][i]]
            phi[i, j] += symbolic["mask"][j, i] * (c * function(a * x[i] + b) + d)
        return phi

    def row(self, x: list[float]) -> tuple[list[float], list[np.ndarray]]:
        edges = []
        for layer in range(len(self.config["width"]) - 1):
            edges.append(self.edges(layer, x))
            x = self.after(layer, edges[-1].sum(axis=0).tolist())
        return x, edges

    def after(self, layer: int, z: list[float]) -> list[float]:
        sums, products = self.config["width"][layer + 1]
        arity = self.config["mult_arity"]
        arities = arity[layer + 1] if isinstance(arity, list) else [arity] * products
        u = self.affine("subnode", layer, z)
        v, at = u[:sums], sums
        for size in arities:
            v.append(math.prod(u[at : at + size]))
            at += size
        return self.affine("node", layer, v)

    def affine(self, kind: str, layer: int, values: list[float]) -> list[float]:
        scale = self.t.get(f"{kind}_scale_{layer}", np.ones(len(values)))
        bias = self.t.get(f"{kind}_bias_{layer}", np.zeros(len(values)))
        return [s * v + b for v, s, b in zip(values, scale, bias, strict=True)]


def rows(toy: Any, columns: int) -> np.ndarray:
    """In the grid, in its extension and outside; knots of the first source."""
    low, high = toy.tensors["act_fun.0.grid"].min(), toy.tensors["act_fun.0.grid"].max()
    created = toy.rng.uniform(1.3 * low, 1.3 * high, size=(12, columns)).astype(np.float32).astype(float)
    created[0] = 0
    created[1:4, 0] = toy.tensors["act_fun.0.grid"][0, [0, 2, -1]]
    return created


def oracle(toy: Any, x: np.ndarray, base: str = "silu") -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs, and the edges of each layer."""
    rows = [Oracle(toy, base).row(row) for row in x.tolist()]
    return np.array([y for y, _ in rows]), [np.array(edges) for edges in zip(*(e for _, e in rows), strict=True)]


def check(folder: Path, toy: Any, *options: str, base: str = "silu", columns: list[int] | None = None) -> Reading:
    """Hold what is read from its files against the oracle: outputs and every edge."""
    result = reading(toy.write(folder), *options)
    result.options.finish(result.family)
    x = rows(toy, result.kan.n_inputs)
    trace = float64_reference.evaluate(result.kan, x)
    y, edges = oracle(toy, x if columns is None else x[:, columns], base)
    _close(trace.y, y, 1e-12)
    for layer, nodes, expected in zip(result.kan.layers, trace.inputs, edges, strict=True):
        _close(np.concatenate([values for _, values, _ in float64_reference.edges(layer, nodes)]), expected, 1e-12)
    return result


def _close(outcome: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Each edge or output against its own largest value."""
    assert outcome.shape == expected.shape
    assert (np.abs(outcome - expected) <= tolerance * np.maximum(1e-30, np.abs(expected).max(axis=0))).all()


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_degrees_and_knots_of_each_input(pykan: Any, tmp_path: Path, k: int) -> None:
    for g in (1, 4):
        assert check(tmp_path, pykan([3, 2, 2], k=k, g=g)).basis.parameters()["degree"] == str(k)


def test_masks_are_real_numbers(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([3, 4, 2])
    toy.tensors["act_fun.0.mask"][:] = toy.rng.uniform(-1, 2, size=(3, 4))
    toy.tensors["act_fun.0.mask"][1] = 0
    toy.tensors["act_fun.1.mask"][:, 0] = 0
    toy.symbolic(0, 0, 1, "sin", (1.3, 0.2, 0.7, -0.3), mask=0.5)
    check(tmp_path, toy)
    assert [layer.active_edges for layer in exported(tmp_path / "toy").layers] == [8, 4]


def test_masked_and_disabled_symbolic_edges(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    toy.symbolic(0, 0, 1, "sin", (1.0, 0.2, 2.0, 5.0), mask=0.0)
    toy.symbolic(0, 1, 1, "my_function", (1.0, 0.2, 2.0, 5.0), mask=0.0)
    kan = check(tmp_path, toy).kan
    assert any("my_function" in note and "(0,1,1)" in note for note in kan.notes)
    toy.tensors["symbolic_fun.0.mask"][:] = 1
    toy.config["symbolic_enabled"] = False
    kan = check(tmp_path, toy).kan
    assert any("4 symbolic edges are off" in note for note in kan.notes)
    assert kan.layers[0].symbolic == ()


PRODUCTS: list[tuple[list[Any], Any]] = [
    ([3, (2, 2), (1, 1), 1], [[], [2, 3], [3], []]),
    ([2, (1, 2), 1], 2),
    ([2, (0, 2), 2], 3),
    ([2, (1, 1)], 2),
    ([2, 2, (0, 2)], [[], [], [3, 2]]),
]


def test_multiplication_nodes(pykan: Any, tmp_path: Path) -> None:
    for width, arity in PRODUCTS:
        toy = pykan(width, arity=arity)
        for key in [key for key in toy.tensors if key.startswith(("node_", "subnode_"))]:
            toy.tensors[key] += toy.rng.normal(scale=0.3, size=toy.tensors[key].shape).astype(np.float32)
        check(tmp_path, toy)


def test_affines_absent_as_expand_depth_leaves_them(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2, 1])
    for kind in ("node", "subnode"):
        toy.tensors[f"{kind}_scale_0"][:] = 0.5
        del toy.tensors[f"{kind}_scale_1"], toy.tensors[f"{kind}_bias_1"]
    check(tmp_path, toy)


def test_stale_grid_and_k_and_missing_names_do_not_matter(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2, 1], k=2, g=6)
    toy.config |= {"grid": [3, 99], "k": 17, "ckpt_path": str(tmp_path / "planted"), "auto_save": True}
    del toy.config["symbolic.funs_name.0"], toy.config["symbolic.funs_name.1"]
    check(tmp_path, toy)
    assert not (tmp_path / "planted").exists()


def test_pruned_inputs_are_selected(pykan: Any, tmp_path: Path) -> None:
    result = check(tmp_path, pykan([2, 2]), "input_id=3,1", "n_inputs=6", columns=[3, 1])
    assert (result.kan.n_inputs, result.assumed) == (6, {})
    result = check(tmp_path, pykan([2, 2]), "input_id=0,2", columns=[0, 2])
    assert (result.kan.n_inputs, result.assumed) == (3, {"n_inputs": "3"})
    assert exported(tmp_path / "toy", "input_id=0,2").input.shape == (-1, 3)


def test_base_functions_by_name_and_by_option(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    for base in BASES:
        toy.config["base_fun_name"] = base
        check(tmp_path, toy, base=base)
        toy.config["base_fun_name"] = "my_own"
        for key in ("base_fun", "base_activation"):
            result = check(tmp_path, toy, f"{key}={base}", base=base)
            assert result.options.explicit == {key: base}


def test_nan_reaches_what_pykan_says(pykan: Any, tmp_path: Path) -> None:
    """With the symbolic branch on, a source that is not finite spoils the row; off, the
    spline is zero there and the base goes on."""
    toy = pykan([2, 2])
    x = np.array([[np.nan, 0.1], [0.1, np.inf], [0.1, 0.1]])
    y = float64_reference.evaluate(reading(toy.write(tmp_path)).kan, x).y
    assert np.isnan(y[:2]).all()
    assert np.isfinite(y[2]).all()
    toy.config |= {"symbolic_enabled": False, "base_fun_name": "tanh"}
    (layer,) = reading(toy.write(tmp_path)).kan.layers
    ((_, edges, _),) = float64_reference.edges(layer, x)
    assert np.isnan(edges[0, 0]).all()
    np.testing.assert_allclose(edges[1, 1], toy.tensors["act_fun.0.scale_base"][1], rtol=1e-6)
    assert np.isfinite(edges[1]).all()
