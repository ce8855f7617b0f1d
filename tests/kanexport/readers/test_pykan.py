"""pykan's semantics, edge by edge, compared with its formulas in plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kanexport.pipeline import Request, Result, export
from tests.support.small_checkpoints import beside_forward

SYMBOLIC = {
    "x": lambda u: u,
    "x^2": lambda u: u * u,
    "x^3": lambda u: u * u * u,
    "x^4": lambda u: u * u * u * u,
    "x^5": lambda u: u * u * u * u * u,
    "1/x": lambda u: 1 / u,
    "1/x^2": lambda u: 1 / u**2,
    "1/x^3": lambda u: 1 / u**3,
    "1/x^4": lambda u: 1 / u**4,
    "1/x^5": lambda u: 1 / u**5,
    "sqrt": math.sqrt,
    "x^0.5": math.sqrt,
    "x^1.5": lambda u: u * math.sqrt(u),
    "1/sqrt(x)": lambda u: 1 / math.sqrt(u),
    "1/x^0.5": lambda u: 1 / math.sqrt(u),
    "exp": math.exp,
    "log": math.log,
    "abs": abs,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "tanh": math.tanh,
    "sgn": lambda u: math.copysign(1.0, u) if u else 0.0,
    "arcsin": math.asin,
    "arccos": math.acos,
    "arctan": math.atan,
    "arctanh": math.atanh,
    "0": lambda u: 0.0,
    "gaussian": lambda u: math.exp(-u * u),
    "sigmoid": lambda u: 1 / (1 + math.exp(-u)),
    "cosh": math.cosh,
}
BASES = {
    "silu": lambda u: u / (1 + math.exp(min(-u, 700))),
    "identity": lambda u: u,
    "zero": lambda u: 0.0,
    "relu": lambda u: max(u, 0.0),
    "sigmoid": lambda u: 1 / (1 + math.exp(-u)),
    "tanh": math.tanh,
    "sin": math.sin,
    "cos": math.cos,
    "softplus": lambda u: math.log1p(math.exp(u)),
    "gelu": lambda u: 0.5 * u * (1 + math.erf(u / math.sqrt(2))),
    "gelu_tanh": lambda u: 0.5 * u * (1 + math.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3))),
}


def spline(x: float, t: list[float], c: int, k: int) -> float:
    """Cox-de Boor for one basis function, half-open cells."""
    if k == 0:
        return 1.0 if t[c] <= x < t[c + 1] else 0.0
    left = (x - t[c]) / (t[c + k] - t[c]) * spline(x, t, c, k - 1)
    return left + (t[c + k + 1] - x) / (t[c + k + 1] - t[c + 1]) * spline(x, t, c + 1, k - 1)


class Oracle:
    """One row at a time through section 3.2 of pykan's forward, from the raw tensors."""

    def __init__(self, toy: Any, base: str = "silu") -> None:
        self.config, self.base = toy.config, BASES[base]
        self.t = {key: value.astype(np.float64) for key, value in toy.tensors.items()}

    def edge(self, layer: int, i: int, j: int, x: float) -> float:
        part = {name: self.t[f"act_fun.{layer}.{name}"] for name in ("coef", "mask", "scale_base", "scale_sp", "grid")}
        knots = part["grid"][i].tolist()
        count = part["coef"].shape[2]
        s = sum(part["coef"][i, j, c] * spline(x, knots, c, len(knots) - count - 1) for c in range(count))
        value = part["mask"][i, j] * (part["scale_base"][i, j] * self.base(x) + part["scale_sp"][i, j] * s)
        factor = self.t[f"symbolic_fun.{layer}.mask"][j, i]
        if factor and self.config["symbolic_enabled"]:
            a, b, c, d = self.t[f"symbolic_fun.{layer}.affine"][j, i]
            value += factor * (c * SYMBOLIC[self.config[f"symbolic.funs_name.{layer}"][j][i]](a * x + b) + d)
        return float(value)

    def row(self, x: list[float]) -> tuple[list[float], list[np.ndarray]]:
        edges = []
        for layer in range(len(self.config["width"]) - 1):
            n, m = self.t[f"act_fun.{layer}.mask"].shape
            phi = np.array([[self.edge(layer, i, j, x[i]) for j in range(m)] for i in range(n)])
            edges.append(phi)
            x = self.after(layer, [sum(phi[i, j] for i in range(n)) for j in range(m)])
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


def rows(toy: Any, columns: int, dtype: Any = np.float32) -> np.ndarray:
    """In the grid, in its extension and outside; knots of the first source; float32."""
    low, high = toy.tensors["act_fun.0.grid"].min(), toy.tensors["act_fun.0.grid"].max()
    created = toy.rng.uniform(1.3 * low, 1.3 * high, size=(12, columns)).astype(np.float32).astype(dtype)
    created[0] = 0
    created[1:4, 0] = toy.tensors["act_fun.0.grid"][0, [0, 2, -1]]
    return created


def check(tmp_path: Path, toy: Any, *options: str, base: str = "silu", columns: list[int] | None = None) -> Result:
    """Export, and hold output and every edge against the oracle; returns the export."""
    result = export(Request(path=toy.write(tmp_path), repository=tmp_path / "models", options=options))
    width = result.manifest.input.shape[1]
    x = rows(toy, width)
    y, edges = run(result, x)
    expected = [Oracle(toy, base).row([float(v) for v in (row if columns is None else row[columns])]) for row in x]
    _close(y, np.array([value for value, _ in expected]), 2e-5)
    for layer, actual in enumerate(edges):
        _close(actual, np.array([values[layer] for _, values in expected]), 5e-5)
    for count in (0, 1):
        few, few_edges = run(result, x[:count])
        assert few.shape == (count, y.shape[1])
        assert [e.shape[0] for e in few_edges] == [count] * len(edges)
        np.testing.assert_allclose(few, y[:count], rtol=1e-5, atol=1e-6)
    return result


def _close(outcome: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    assert outcome.shape == expected.shape
    assert np.abs(outcome - expected).max() <= tolerance * max(1e-30, np.abs(expected).max())


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("g", [1, 4])
def test_degrees_and_knots_of_each_input(pykan: Any, tmp_path: Path, k: int, g: int) -> None:
    result = check(tmp_path, pykan([3, 2, 2], k=k, g=g))
    assert result.manifest.layers[0].bases[0].parameters["degree"] == str(k)


def test_masks_are_real_numbers(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([3, 4, 2])
    toy.tensors["act_fun.0.mask"][:] = toy.rng.uniform(-1, 2, size=(3, 4))
    toy.tensors["act_fun.0.mask"][1] = 0
    toy.tensors["act_fun.1.mask"][:, 0] = 0
    result = check(tmp_path, toy)
    assert [layer.active_edges for layer in result.manifest.layers] == [8, 4]


def test_a_constant_network_keeps_its_rows(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 3, 1])
    for layer in (0, 1):
        toy.tensors[f"act_fun.{layer}.mask"][:] = 0
    toy.tensors["node_bias_1"][:] = 0.75
    result = check(tmp_path, toy)
    y, _ = run(result, np.ones((5, 2), np.float32))
    assert y.tolist() == [[0.75]] * 5


@pytest.mark.parametrize("name", SYMBOLIC)
def test_every_symbolic_function(pykan: Any, tmp_path: Path, name: str) -> None:
    toy = pykan([2, 2])
    span = float(np.abs(toy.tensors["act_fun.0.grid"]).max())
    toy.tensors["act_fun.0.mask"][0, 0] = 0
    # a x + b stays between 0.2 and 0.8 on every row that is tried; one sign for all functions.
    toy.symbolic(0, 0, 0, name, (0.2 / span, 0.5, 1.7, -0.3))
    toy.symbolic(0, 1, 1, name, (-0.2 / span, 0.5, -0.6, 0.1), mask=0.5)  # both kinds at once, a real mask
    result = check(tmp_path, toy)
    assert {edge.function for edge in result.manifest.layers[0].symbolic} == {name}


def test_masked_and_disabled_symbolic_edges(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 2])
    toy.symbolic(0, 0, 1, "sin", (1.0, 0.2, 2.0, 5.0), mask=0.0)
    toy.symbolic(0, 1, 1, "my_function", (1.0, 0.2, 2.0, 5.0), mask=0.0)
    result = check(tmp_path, toy)
    assert any("my_function" in note and "(0,1,1)" in note for note in result.manifest.notes)
    toy.tensors["symbolic_fun.0.mask"][:] = 1
    toy.config["symbolic_enabled"] = False
    (tmp_path / "off").mkdir()
    result = check(tmp_path / "off", toy)
    assert any("4 symbolic edges are off" in note for note in result.manifest.notes)
    assert result.manifest.layers[0].symbolic == ()


@pytest.mark.parametrize(
    ("width", "arity"),
    [
        ([2, (1, 2), 1], 2),
        ([2, (0, 2), 2], 3),
        ([3, (2, 2), (1, 1), 1], [[], [2, 3], [3], []]),
        ([2, (1, 1)], 2),
        ([2, 2, (0, 2)], [[], [], [3, 2]]),
    ],
)
def test_multiplication_nodes(pykan: Any, tmp_path: Path, width: list[Any], arity: Any) -> None:
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
    assert result.manifest.input.shape == (-1, 6)
    assert beside_forward(result.manifest.source) == {}
    (tmp_path / "assumed").mkdir()
    result = check(tmp_path / "assumed", pykan([2, 2]), "input_id=0,2", columns=[0, 2])
    assert result.manifest.input.shape == (-1, 3)
    assert beside_forward(result.manifest.source) == {"n_inputs": "3"}


@pytest.mark.parametrize("base", BASES)
def test_base_functions_by_name_and_by_option(pykan: Any, tmp_path: Path, base: str) -> None:
    toy = pykan([2, 2])
    toy.config["base_fun_name"] = base
    check(tmp_path, toy, base=base)
    toy.config["base_fun_name"] = "my_own"
    (tmp_path / "option").mkdir()
    check(tmp_path / "option", toy, f"base_fun={base}", base=base)


def test_float64_weights_in_both_precisions(pykan: Any, tmp_path: Path) -> None:
    toy = pykan([2, 3, 1], dtype="float64")
    result = check(tmp_path, toy)
    assert result.manifest.source.dtype == "float64"
    assert any("--dtype float64" in note for note in result.manifest.notes)
    request = Request(path=tmp_path / "toy", repository=tmp_path / "double", dtype="float64", tolerance=1e-12)
    result = export(request)
    x = rows(toy, 2, np.float64)
    y, edges = run(result, x)
    expected = [Oracle(toy).row([float(v) for v in row]) for row in x]
    _close(y, np.array([value for value, _ in expected]), 1e-13)
    _close(edges[0], np.array([values[0] for _, values in expected]), 1e-13)


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


def test_a_base_function_may_be_given_under_either_name(pykan: Any, tmp_path: Path) -> None:
    path = pykan([2, 2]).write(tmp_path)
    for key in ("base_fun", "base_activation"):
        result = export(Request(path=path, repository=tmp_path / key, options=(f"{key}=tanh",)))
        assert result.manifest.layers[0].bases[1].kind == "tanh"
        assert result.manifest.source.options_given == {key: "tanh"}
