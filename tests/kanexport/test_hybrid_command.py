"""`kanserve export --module`: a factory of the user's, and weights from wherever they were saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import hybrid_modules as modules  # noqa: E402 - needs torch

from kanexport.errors import CheckpointError, OptionError  # noqa: E402 - as above
from kanexport.hybrid import command, inputs  # noqa: E402 - as above
from kanexport.options import Options  # noqa: E402 - as above
from kanexport.packing.publish import Result, Target  # noqa: E402 - as above

NETS = """
import argparse
import torch
from hybrid_modules import KANLinear, Stack

def net(): return Stack(KANLinear(4, 3), KANLinear(3, 2))
def wrapped(): return torch.nn.DataParallel(net())
def with_rows(): return net(), torch.randn(9, 4)
def failing(): raise ValueError("no such data")
def script(): argparse.ArgumentParser().parse_args(["--lr", "1"])
def number(): return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    name = f"nets_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return tmp_path


def run(folder: Path, factory: str, weights: dict[str, Any] | None = None, shape: str | None = "4") -> Result:
    path = folder / "weights.pt"
    if weights is not None:
        torch.save(weights, path)
    (nets,) = folder.glob("nets_*.py")
    target = Target(repository=folder / "models", name="net")
    return command.run(
        f"{nets.stem}:{factory}",
        path if weights is not None else None,
        None,
        shape,
        target,
        Options({}),
        lambda done, total: None,
    )


def layers() -> Any:
    torch.manual_seed(5)
    return modules.Stack(modules.KANLinear(4, 3), modules.KANLinear(3, 2))


def first_reference(result: Result) -> tuple[np.ndarray, np.ndarray]:
    reference = result.manifest.reference
    return np.array(reference.inputs, np.float64), np.array(reference.outputs, np.float64)


@pytest.mark.parametrize("factory", ["net", "wrapped"])
def test_weights_under_a_trainers_prefix_are_found(folder: Path, factory: str) -> None:
    """As Lightning saves them, of a compiled module, beside a loss of its own."""
    module = layers()
    state = {f"model._orig_mod.{key}": value for key, value in module.state_dict().items()}
    result = run(folder, factory, {"state_dict": state | {"loss.weight": torch.ones(3)}, "epoch": 3})
    x, y = first_reference(result)
    with torch.no_grad():
        expected = module.double()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    assert [layer.name for layer in result.manifest.layers] == ["layers.0", "layers.1"]


def test_weights_of_another_module_are_refused(folder: Path) -> None:
    state = layers().state_dict()
    del state["layers.1.grid"]
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, 1 are unknown \(-layers.1.grid, \+more\)"):
        run(folder, "net", {**state, "more": torch.ones(2)})


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("failing", r"ValueError: no such data \(nets_\d+.py, line 9, in failing: .*raise ValueError"),
        ("script", r"SystemExit: 2 \(nets_\d+.py, line 10, in script"),
        ("number", "returned int, expected a torch.nn.Module"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_a_factory_that_makes_no_module_is_refused(folder: Path, factory: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(folder, factory)
    assert not (folder / "models").exists()


def test_example_rows_may_have_a_header_and_are_refused_by_their_place(folder: Path) -> None:
    """As `kanserve infer` reads them."""
    path = folder / "rows.csv"
    path.write_text("a,b,c,d\n" + "1,2,3,4\n" * 5)
    np.testing.assert_array_equal(inputs.load(path), np.array([[1, 2, 3, 4]] * 5, np.float32))
    path.write_text("1,2\n3,x\n")
    with pytest.raises(OptionError, match=r"rows.csv, line 2, column 2: found 'x'; a number was expected"):
        inputs.load(path)
    path.write_text("")
    with pytest.raises(OptionError, match=r"rows.csv is empty"):
        inputs.load(path)


def test_the_factory_may_give_the_rows(folder: Path) -> None:
    assert run(folder, "with_rows", shape=None).manifest.verification.zones[0].rows == 9
