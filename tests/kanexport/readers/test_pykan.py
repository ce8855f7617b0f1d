"""pykan's semantics, edge by edge, compared with its formulas in plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kanexport.pipeline import Request, Result, export
from kanexport.verify import float64_reference
from tests.support.small_checkpoints import Reading, exported, reading, spline, under
from tests.support.tiers import spread

NAMED = ("sqrt", "exp", "log", "sin", "cos", "tan", "tanh", "cosh")
SYMBOLIC: dict[str, Callable[[float], float]] = {
    **{name: getattr(math, name) for name in NAMED},
    **{f"arc{name}": getattr(math, f"a{name}") for name in ("sin", "cos", "tan", "tanh")},
    **{f"x^{p}": lambda u, p=p: u**p for p in (0.5, 1.5, 2, 3, 4, 5)},
    **{f"1/x^{p}": lambda u, p=p: 1 / u**p for p in (0.5, 2, 3, 4, 5)},
    "x": lambda u: u,
    "1/x": lambda u: 1 / u,
    "1/sqrt(x)": lambda u: 1 / math.sqrt(u),
    "abs": abs,
    "sgn": lambda u: math.copysign(1.0, u) if u else 0.0,
    "0": lambda u: 0.0,
    "gaussian": lambda u: math.exp(-u * u),
    "sigmoid": lambda u: 1 / (1 + math.exp(-u)),
}
BASES: dict[str, Callable[[float], float]] = {
    **{name: SYMBOLIC[name] for name in ("sigmoid", "tanh", "sin", "cos")},
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


def graph(path: Path, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run(result: Result, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output and edges of the exported graphs."""
    actual = {"x": x, **graph(result.directory / "model.onnx", {"x": x})}
    return actual["y"], [
        graph(result.directory / layer.edges_file, {layer.node_tensor: actual[layer.node_tensor]})[layer.edges_tensor]
        for layer in result.manifest.layers
    ]


def rows(toy: Any, columns: int) -> np.ndarray:
    """In the grid, in its extension and outside; knots of the first source."""
    low, high = toy.tensors["act_fun.0.grid"].min(), toy.tensors["act_fun.0.grid"].max()
    created = toy.rng.uniform(1.3 * low, 1.3 * high, size=(12, columns)).astype(np.float32).astype(float)
    created[0] = 0
    created[1:4, 0] = toy.tensors["act_fun.0.grid"][0, [0, 2, -1]]
    return created


def oracle(toy: Any, x: np.ndarray, base: str = "silu") -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs, and the edges of each layer."""
    answers = [Oracle(toy, base).row(row) for row in x.tolist()]
    return np.array([y for y, _ in answers]), [np.array(edges) for edges in zip(*(e for _, e in answers), strict=True)]


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


def check_graphs(folder: Path, toy: Any, **more: Any) -> Result:
    """Export, and compare the outputs of the graphs with the oracle; `more` is of the request."""
    result = export(Request(path=toy.write(folder), repository=folder / "models", force=True, **more))
    double = more.get("dtype") == "float64"
    x = rows(toy, result.manifest.input.shape[1]).astype(np.float64 if double else np.float32)
    y, edges = run(result, x)
    expected, expected_edges = oracle(toy, x)
    _close(y, expected, 1e-13 if double else 2e-5)
    for values, right in zip(edges, expected_edges, strict=True):
        _close(values, right, 1e-13 if double else 5e-5)
    for count in (0, 1):
        few, few_edges = run(result, x[:count])
        assert few.shape == (count, y.shape[1])
        assert [e.shape[0] for e in few_edges] == [count] * len(edges)
        np.testing.assert_allclose(few, y[:count], rtol=1e-5, atol=1e-6)
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
    result = check_graphs(tmp_path, toy)
    assert [layer.active_edges for layer in result.manifest.layers] == [8, 4]


def test_a_constant_network_keeps_its_rows(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 3, 1])
    for layer in (0, 1):
        toy.tensors[f"act_fun.{layer}.mask"][:] = 0
    toy.tensors["node_bias_1"][:] = 0.75
    y, _ = run(check_graphs(tmp_path, toy), np.ones((5, 2), np.float32))
    assert y.tolist() == [[0.75]] * 5


@spread("sign", [1, -1], 1)
def test_every_symbolic_function(pykan: Any, tmp_path: Path, sign: int) -> None:
    """One on each edge, every second in addition to a spline and with a real mask."""
    toy = pykan([4, 8])
    span = float(np.abs(toy.tensors["act_fun.0.grid"]).max())
    for at, ((i, j), name) in enumerate(zip(np.ndindex(4, 8), SYMBOLIC, strict=False)):
        # a x + b stays between 0.2 and 0.8 on every row that is tried; one sign for all functions.
        if at % 2 == (sign > 0):
            toy.tensors["act_fun.0.mask"][i, j] = 0
            toy.symbolic(0, i, j, name, (sign * 0.2 / span, 0.5, 1.7, -0.3))
        else:
            toy.symbolic(0, i, j, name, (sign * 0.2 / span, 0.5, -0.6, 0.1), mask=0.5)
    result = check_graphs(tmp_path, toy)
    assert {edge.function for edge in result.manifest.layers[0].symbolic} == set(SYMBOLIC)


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
    for at, (width, arity) in enumerate(PRODUCTS):
        toy = pykan(width, arity=arity)
        for key in [key for key in toy.tensors if key.startswith(("node_", "subnode_"))]:
            toy.tensors[key] += toy.rng.normal(scale=0.3, size=toy.tensors[key].shape).astype(np.float32)
        (check_graphs if at == 0 else check)(tmp_path, toy)


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


def test_float64_weights_in_both_precisions(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 3, 1], dtype="float64")
    manifest = check_graphs(tmp_path, toy).manifest
    assert manifest.source.dtype == "float64"
    assert any("--dtype float64" in note for note in manifest.notes)
    check_graphs(tmp_path, toy, dtype="float64", tolerance=1e-12)


def test_nan_reaches_what_pykan_says(pykan: Any, tmp_path: Path) -> None:
    """With the symbolic branch on, a source that is not finite spoils the row; off, the
    spline is zero there and the base goes on."""
    toy = pykan([2, 2])
    x = np.array([[np.nan, 0.1], [0.1, np.inf], [0.1, 0.1]], np.float32)
    y, _ = run(export(Request(path=toy.write(tmp_path), repository=tmp_path / "on")), x)
    assert np.isnan(y[:2]).all()
    assert np.isfinite(y[2]).all()
    toy.config |= {"symbolic_enabled": False, "base_fun_name": "tanh"}
    y, edges = run(export(Request(path=toy.write(tmp_path), repository=tmp_path / "off")), x)
    assert np.isnan(edges[0][0, 0]).all()
    np.testing.assert_allclose(edges[0][1, 1], toy.tensors["act_fun.0.scale_base"][1], rtol=1e-6)
    assert np.isfinite(y[1]).all()
