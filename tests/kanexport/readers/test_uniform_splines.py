"""inkan, flashkan and KANX: splines on grids that are not fully stored, compared with the formulas in loops."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.errors import InvalidKan
from tests.support import small_checkpoints as small

STACK = ("layers.0.", "layers.1.")


def starts(low: float, high: float, cells: int, kind: Any = np.float32) -> np.ndarray:
    """As inkan and flashkan store them."""
    step = (high - low) / cells
    return np.arange(cells + 3, dtype=kind) * kind(step) + kind(low) - kind(3 * step)


def inkan(
    n: int, m: int, cells: int = 5, span: tuple[float, float] = (-1.2, 0.2), kind: Any = np.float32
) -> small.Tensors:
    return {"grid_starts": starts(*span, cells, kind), "weight": small.normal(1, m, n * (cells + 3) + n).astype(kind)}


def flashkan(n: int, m: int, cells: int = 5, span: tuple[float, float] = (-1.2, 0.2)) -> small.Tensors:
    weights = {"spline_weight": small.normal(1, m, n, cells + 3), "base_weight": small.normal(2, m, n)}
    return {"grid_starts": starts(*span, cells)} | small.floats(weights)


def kanx(n: int, m: int, cells: int = 5, k: int = 3, kind: str = "float32") -> small.Tensors:
    grid = np.sort(np.random.default_rng(0).uniform(-1.5, 1.5, size=(n, cells + 1)), axis=1)
    weights = {"base_weight": small.normal(1, n, m), "spline_weight": small.normal(2, n, m, cells + k)}
    return small.floats(weights | {"grid": grid}, kind)


def efficient_kan(n: int, m: int, cells: int = 5, k: int = 3) -> small.Tensors:
    grid = np.tile(np.linspace(-2, 2, cells + 2 * k + 1), (n, 1))
    return small.floats(
        {"base_weight": small.normal(1, m, n), "spline_weight": small.normal(2, m, n, cells + k), "grid": grid}
    )


def cubic(u: float) -> float:
    """The cubic B-spline on 0, 1, 2, 3, 4, piece by piece."""
    s = min(u, 4 - u)
    if s <= 0:
        return 0.0
    v = s - 1
    return s**3 / 6 if v <= 0 else (1 + 3 * v + 3 * v**2 - 3 * v**3) / 6


def beside(base: Any, row: list[float], act: Any) -> Any:
    """[I, O] of a base branch with weights [O, I]."""
    return base.T * np.array([act(x) for x in row])[:, None]


def inkan_edges(h: float, act: Any = small.silu) -> small.Edges:
    def edges(part: small.Tensors, row: list[float]) -> Any:
        first, k, n = part["grid_starts"][0], len(part["grid_starts"]), len(row)
        values = [[cubic((x - first) / h - c) for c in range(k)] for x in row]
        own = np.einsum("oic,ic->io", part["weight"][:, : n * k].reshape(-1, n, k), values)
        return own + beside(part["weight"][:, n * k :], row, act)

    return edges


def flashkan_edges(h: float, act: Any = small.silu) -> small.Edges:
    def edges(part: small.Tensors, row: list[float]) -> Any:
        values = [[0.16666667 * 6 * cubic((x - s) / h) for s in part["grid_starts"]] for x in row]
        return np.einsum("oic,ic->io", part["spline_weight"], values) + beside(part["base_weight"], row, act)

    return edges


def kanx_edges(act: Any = small.silu) -> small.Edges:
    def edges(part: small.Tensors, row: list[float]) -> Any:
        count, cells = part["spline_weight"].shape[2], part["grid"].shape[1] - 1
        k, values = count - cells, []
        for x, grid in zip(row, part["grid"].tolist(), strict=True):
            h = (grid[-1] - grid[0]) / cells
            t = [grid[0] - h * p for p in range(k, 0, -1)] + grid + [grid[-1] + h * p for p in range(1, k + 1)]
            values.append([small.spline(x, t, c, k) for c in range(count)])
        return np.einsum("ioc,ic->io", part["spline_weight"], values) + beside(part["base_weight"].T, row, act)

    return edges


def test_lone_layers(tmp_path: Path) -> None:
    for n, m, cells in ((3, 2, 5), (1, 2, 1), (3, 1, 12), (4, 4, 5), (1, 1, 2)):
        h = (0.2 - -1.2) / cells
        for tensors, edges, family in (
            (inkan(n, m, cells), inkan_edges(h), "inkan"),
            (flashkan(n, m, cells), flashkan_edges(h), "flashkan"),
            (kanx(n, m, cells), kanx_edges(), "kanx"),
        ):
            result = small.check(small.save(tmp_path, tensors), tensors, edges)
            assert (result.family, result.kan.edge_class, result.basis.kind) == (family, "A", "bspline")
            assert result.assumed == {"base_activation": "silu"} | ({"h": repr(h)} if family != "kanx" else {})
            assert result.basis.parameters()["intervals"] == str(cells)


def test_stacks_and_options(tmp_path: Path) -> None:
    for make, edges in ((inkan, inkan_edges), (flashkan, flashkan_edges)):
        tensors = small.stacked([make(3, 4), make(4, 2)])
        options = ("h=0.25", "base_activation=tanh")
        small.check(small.save(tmp_path, tensors), tensors, edges(0.25, math.tanh), *options, prefixes=STACK)
        for option, text in (("h=0", "0"), ("h=wide", "wide"), ("base_activation=magic", "magic"), ("k=3", "'k'")):
            assert text in small.refuse(tmp_path, tensors, option).message
    tensors = small.stacked([kanx(3, 4), kanx(4, 2)], "")
    small.check(
        small.save(tmp_path, tensors), tensors, kanx_edges(math.tanh), "base_activation=tanh", prefixes=("0.", "1.")
    )


def test_starts_in_float64(tmp_path: Path) -> None:
    tensors = inkan(3, 2, kind=np.float64)
    result = small.check(small.save(tmp_path, tensors), tensors, inkan_edges((0.2 - -1.2) / 5))
    assert result.kan.dtype == "float64"
    assert result.basis.knots()[0][3] == pytest.approx(-1.2, abs=1e-15)


def test_a_surface_over_two_inputs_is_no_edge(tmp_path: Path) -> None:
    tensors = inkan(2, 3)
    tensors["weight"] = small.normal(1, 3, 8 * 8 + 2).astype(np.float32)
    small.refuse(tmp_path, tensors, said="66 columns", hint="dim=2")
    tensors["weight"] = small.normal(1, 3, 20).astype(np.float32)
    assert "dim=2" not in small.refuse(tmp_path, tensors).hint
    tensors = flashkan(2, 3) | {"spline_weight": small.normal(1, 3, 8, 8).astype(np.float32)}  # inkan's, before 0.4
    small.refuse(tmp_path, tensors, said="spline_weight")


def test_kanx_of_every_degree(tmp_path: Path) -> None:
    for k, cells in itertools.product((1, 2, 3, 5), (1, 4)):
        tensors = kanx(3, 2, cells, k, "float64")
        result = small.check(small.save(tmp_path, tensors), tensors, kanx_edges())
        assert result.basis.parameters()["degree"] == str(k)


@pytest.mark.parametrize("k", [1, 3])
def test_kanx_grids_may_repeat_knots(tmp_path: Path, k: int) -> None:
    tensors = kanx(3, 2, 5, k)
    tensors["grid"][0] = [-1, 0, 0, 0.5, 0.5, 1]
    tensors["grid"][1] = [0, 0, 0, 0, 0, 1]
    tensors["grid"][2] = 0.25
    small.check(small.save(tmp_path, tensors), tensors, kanx_edges())
    small.exported(tmp_path / "model.safetensors")
    tensors["grid"][1, 2] = -0.5
    small.refuse(tmp_path, tensors, kind=InvalidKan, said="knots of source 1 are not increasing")


def test_kanx_keeps_the_activation_its_file_names(tmp_path: Path) -> None:
    """Its save() writes the arguments of the constructor next to the state dict."""
    torch = pytest.importorskip("torch")
    tensors = small.stacked([kanx(3, 4), kanx(4, 2)], "")
    file = {
        "state_dict": {key: torch.from_numpy(value) for key, value in tensors.items()},
        "layers_spec": [3, 4, 2],
        "defaults": {"grid_size": 5, "spline_order": 3, "base_activation": "Tanh", "grid_range": (-1.0, 1.0)},
    }
    for layers, names in (([3, 4, 2], ("Tanh", "Tanh")), ([{"base_activation": "swish"}, {}], ("swish", "Tanh"))):
        torch.save(file | {"layers_spec": layers}, tmp_path / "m.pt")
        kan, family = small.read(tmp_path / "m.pt")
        assert family == "kanx"
        known = {"Tanh": "tanh", "swish": "silu"}
        assert [layer.terms[1].kind for layer in kan.layers] == [known[name] for name in names]
    torch.save(file, tmp_path / "m.pt")
    assert small.check(tmp_path / "m.pt", tensors, kanx_edges(math.tanh), prefixes=("0.", "1.")).assumed == {}
    small.check(tmp_path / "m.pt", tensors, kanx_edges(), "base_activation=silu", prefixes=("0.", "1."))
    for odd in ([], {"base_activation": 5}, {"base_activation": None}, "tanh"):
        torch.save(file | {"defaults": odd, "layers_spec": odd}, tmp_path / "m.pt")
        assert small.read(tmp_path / "m.pt")[0].layers[0].terms[1].kind == "silu"


def test_kanx_and_efficient_kan_are_told_apart_where_all_axes_are_equal(tmp_path: Path) -> None:
    for n, (cells, k) in itertools.product((1, 2, 5, 8), ((1, 1), (1, 3), (5, 3), (8, 5))):
        assert small.read(small.save(tmp_path, kanx(n, n, cells, k)))[1] == "kanx"
        assert small.read(small.save(tmp_path, efficient_kan(n, n, cells, k)))[1] == "efficient-kan"
        small.refuse(tmp_path, efficient_kan(n, n, cells, k), family="kanx", kind=InvalidKan, hint="efficient-kan")
        small.refuse(tmp_path, kanx(n, n, cells, k), family="efficient-kan", hint="kanx")


def test_tensors_of_neither_library_are_refused(tmp_path: Path) -> None:
    grid = np.tile(np.linspace(-1, 1, 9), (3, 1)).astype(np.float32)  # degree 0 of both
    scaler = {"spline_scaler": np.ones((3, 3), np.float32)}  # efficient-kan's
    for changed in ({"grid": grid}, scaler):
        small.refuse(tmp_path, kanx(3, 3) | changed, said="are ambiguous")
