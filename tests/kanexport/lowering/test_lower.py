"""Networks with only symbolic edges: graphs without a basis, and unchanged values."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from kanexport.detection import detect, registry
from kanexport.formats import checkpoint
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.options import KnownFacts, Options
from kanexport.pipeline import Request, export
from kanexport.verify import float64_reference
from tests.support.tiers import spread

# Operators that compute affine maps and sums around symbolic functions.
PLAIN = {"Gather", "Mul", "Add", "Concat", "Pad", "Reshape", "ReduceSum", "Sub", "Identity", "Gemm", "Slice"}


def operators(model: bytes) -> set[str]:
    return {node.op_type for node in onnx.load_model_from_string(model).graph.node}


def folder(path: Path, name: str) -> Path:
    created = path / name
    created.mkdir()
    return created


def read(path: Path, *options: str) -> Kan:
    loaded = checkpoint.load(path)
    return detect.read(registry.readers()["pykan"], loaded, Options(KnownFacts.parse(options)))


def symbolic(pykan: Any, base: str = "silu", names: tuple[str, str] = ("sin", "x^2")) -> Any:
    """[2, 2, 1] with a function of the table on every edge."""
    toy = pykan([2, 2, 1], seed=1)
    toy.config["base_fun_name"] = base
    for at, (n, m) in enumerate(((2, 2), (2, 1))):
        toy.tensors[f"act_fun.{at}.mask"][:] = 0
        for i, j in np.ndindex(n, m):
            toy.symbolic(at, i, j, names[(i + j) % 2], (1.5, 0.25 * i, 0.5, 0.1))
    return toy


@spread("base", ["silu", "identity", "zero"], 1)
def test_a_base_that_spoils_every_value_leaves_only_that_behind(pykan: Any, tmp_path: Path, base: str) -> None:
    path = symbolic(pykan, base).write(tmp_path)
    lowered = lower.lower(read(path), "float32")
    assert all(operators(model) <= PLAIN | {"Sin"} for model in (lowered.model, *lowered.edges))
    kan = read(path)
    y = float64_reference.evaluate(kan, np.array([[np.nan, 0], [0, np.inf], [0, 0]])).y
    assert np.isnan(y[:, 0]).tolist() == [True, True, False]
    export(Request(path=path, repository=tmp_path / "models"))  # the proof has such rows


@spread("base", ["tanh", "sigmoid", "relu"], 1)
def test_a_base_that_is_bounded_stays(pykan: Any, tmp_path: Path, base: str) -> None:
    """tanh(inf) * 0 is 0, tanh(NaN) * 0 is NaN: no rule for all values that are not finite."""
    path = symbolic(pykan, base).write(tmp_path)
    actual = operators(lower.lower(read(path), "float32").model)
    assert actual - PLAIN - {"Sin"}
    assert not actual & {"HardSigmoid", "Pow", "Clip"}  # but the spline is gone
    export(Request(path=path, repository=tmp_path / "models"))


def test_one_numeric_edge_keeps_the_bases_of_its_layer(pykan: Any, tmp_path: Path) -> None:
    toy = symbolic(pykan)
    toy.tensors["act_fun.1.mask"][1, 0] = 1e-3
    lowered = lower.lower(read(toy.write(tmp_path)), "float32")
    assert operators(lowered.edges[0]) <= PLAIN | {"Sin"}
    assert "MatMul" in operators(lowered.edges[1])
    export(Request(path=tmp_path / "toy", repository=tmp_path / "models"))


@pytest.mark.parametrize("enabled", [True, False])
def test_a_network_without_any_live_edge_is_constant(pykan: Any, tmp_path: Path, enabled: bool) -> None:
    toy = pykan([2, 3, 1])
    toy.config["symbolic_enabled"] = enabled
    for at in (0, 1):
        toy.tensors[f"act_fun.{at}.mask"][:] = 0
    lowered = lower.lower(read(toy.write(tmp_path)), "float32")
    assert operators(lowered.model) <= PLAIN
    export(Request(path=tmp_path / "toy", repository=tmp_path / "models"))


@spread("name", ["log", "arctan", "abs"], 1)
def test_edges_off_and_on_spoil_what_pykan_spoils(pykan: Any, tmp_path: Path, name: str) -> None:
    """Some edges without a function, whose sources spoil through `x*0`, next to symbolic ones."""
    toy = symbolic(pykan, "tanh", (name, "tanh"))
    toy.symbolic(0, 0, 0, "0", (1, 0, 1, 0), 0.0)
    kan = read(toy.write(tmp_path))
    assert kan.layers[0].nan_spreads.tolist() == [[True, False], [False, False]]
    export(Request(path=tmp_path / "toy", repository=tmp_path / "models"))
