"""`kanserve export --module`: a user's factory, with weights from any supported file."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kanexport.bundle.publish import Target
from kanexport.errors import CheckpointError, ModuleRefused, OptionError
from kanexport.options import KnownFacts
from kanexport.shared import manifest
from kanexport.torch_export import inputs, module_command
from tests.support import torch_modules as modules
from tests.support.command_line import kanserve

Run = Callable[..., SimpleNamespace]

NETS = """
import argparse
import subprocess
import torch
from tests.support.torch_modules import KANLinear, Stack

def net(): return Stack(KANLinear(4, 3), KANLinear(3, 2))
def wrapped(): return torch.nn.DataParallel(net())
def with_rows(): return net(), torch.randn(9, 4)
def failing(): raise ValueError("no such data")
def script(): argparse.ArgumentParser().parse_args(["--lr", "1"])
def number(): return 3

class Drawn(Stack):
    # Multiplies by what it drew when it was made.
    def __init__(self, keep):
        super().__init__(KANLinear(4, 3))
        self.register_buffer("factors", torch.rand(4) + 0.5, persistent=keep)
        self.shift = float(torch.rand(())) if not keep else 0.0
    def forward(self, x): return super().forward(x * self.factors + self.shift)

def drawn(): return Drawn(keep=False)
def kept(): return Drawn(keep=True)
def seeded():
    torch.manual_seed(3)
    return Drawn(keep=False)

FACTOR = torch.rand(())
class Global(Stack):
    def forward(self, x): return super().forward(x * FACTOR)
def by_import(): return Global(KANLinear(4, 3))

made = []
def once():
    if made: raise RuntimeError("only once")
    made.append(net())
    return made[0]

class Talking(Stack):
    def forward(self, x):
        print("forward")
        return super().forward(x)
def talking():
    print("factory")
    subprocess.run(["echo", "a program of its own"])
    return Talking(KANLinear(4, 3))
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's file with NETS, in the current folder."""
    path = tmp_path / f"nets_{abs(hash(tmp_path))}.py"
    path.write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    return path


@pytest.fixture
def run(factories: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command with the name of a factory and weights, up to the export: the module, the rows and the assumptions
    that it exports."""

    def convert(module: Any, rows: Any, target: Target, **named: Any) -> SimpleNamespace:
        module(torch.as_tensor(rows))
        return SimpleNamespace(module=module, rows=rows, assumed=named["assumed"])

    def command(factory: str, weights: dict[str, Any] | None = None) -> SimpleNamespace:
        path = factories.with_name("weights.pt") if weights is not None else None
        if path is not None:
            torch.save(weights, path)
        target = Target(repository=factories.with_name("models"), name="net")
        return module_command.run(
            f"{factories.stem}:{factory}", path, None, "4", target, KnownFacts(), lambda done, total: None
        )

    monkeypatch.setattr(module_command, "convert", convert)
    return command


def layers() -> Any:
    torch.manual_seed(5)
    return modules.Stack(modules.KANLinear(4, 3), modules.KANLinear(3, 2))


def lone_layer() -> dict[str, Any]:
    """Weights of the modules with one layer."""
    return {f"layers.0.{key}": value for key, value in modules.KANLinear(4, 3).state_dict().items()}


@pytest.mark.parametrize("factory", ["net", "wrapped"])
def test_weights_under_a_trainers_prefix_are_found(run: Run, factory: str) -> None:
    """As Lightning saves them, of a compiled module, next to a custom loss."""
    module = layers()
    state = {f"model._orig_mod.{key}": value for key, value in module.state_dict().items()}
    exported = run(factory, {"state_dict": state | {"loss.weight": torch.ones(3)}, "epoch": 3})
    assert exported.assumed == {}
    torch.testing.assert_close(exported.module(torch.ones(2, 4)), module(torch.ones(2, 4)))


def test_weights_of_another_module_are_refused(run: Run) -> None:
    state = layers().state_dict()
    del state["layers.1.grid"]
    with pytest.raises(CheckpointError, match=r"1 tensors are missing, 1 are unknown \(-layers.1.grid, \+more\)"):
        run("net", {**state, "more": torch.ones(2)})


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("failing", r"ValueError: no such data \(nets_\d+.py, line 10, in failing: .*raise ValueError"),
        ("script", r"SystemExit: 2 \(nets_\d+.py, line 11, in script"),
        ("number", "returned int, expected a torch.nn.Module"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_a_factory_that_makes_no_module_is_refused(run: Run, factory: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        run(factory)


def test_example_rows_may_have_a_header_and_are_refused_by_their_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b,c,d\n" + "1,2,3,4\n" * 5)
    np.testing.assert_array_equal(inputs.load(path), np.array([[1, 2, 3, 4]] * 5, np.float32))
    path.write_text("1,2\n3,x\n")
    with pytest.raises(OptionError, match=r"rows.csv, line 2, column 2: found 'x', expected a number"):
        inputs.load(path)
    path.write_text("")
    with pytest.raises(OptionError, match=r"rows.csv is empty"):
        inputs.load(path)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("drawn", "factors, shift is random and not in the state dict"),
        ("by_import", "a value that is not an attribute is random"),
    ],
)
def test_what_a_factory_draws_and_nothing_keeps_is_refused(run: Run, factory: str, message: str) -> None:
    with pytest.raises(ModuleRefused, match="with the same weights give different outputs: .*" + message) as caught:
        run(factory, lone_layer())
    assert "register_buffer" in caught.value.hint


@pytest.mark.parametrize(("factory", "more"), [("kept", {"factors": torch.ones(4)}), ("seeded", {})])
def test_what_it_draws_is_fine_if_the_file_or_a_seed_has_it_back(run: Run, factory: str, more: dict[str, Any]) -> None:
    assert run(factory, lone_layer() | more).assumed == {}


def test_weights_that_are_drawn_are_told(run: Run) -> None:
    assert run("net").assumed == {
        "weights": "random, different in each call of the factory; pass trained ones with --checkpoint"
    }


def test_a_factory_that_runs_once_is_told(run: Run, factories: Path) -> None:
    factories.write_text(NETS.replace("made = []", "made = torch.__dict__.setdefault(__name__, [])"))
    assumed = run("once", layers().state_dict()).assumed
    assert "cannot be called again: " in assumed["constants"]
    assert "RuntimeError: only once" in assumed["constants"]


def test_nothing_is_printed_to_stdout(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("talking")
    out, err = capfd.readouterr()
    assert out == ""
    assert {"factory", "forward", "a program of its own"} <= set(err.splitlines())


def test_the_command_exports_a_module_with_the_factorys_rows_and_prints_its_phases(factories: Path) -> None:
    done = kanserve("export", "--module", f"{factories.stem}:with_rows", "--repository", "models")
    assert done.returncode == 0, done.stderr
    words = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("exporting: ")]
    phases = [word for word in words if word.isalpha()]  # a slow machine also prints counts, one line in 10 seconds
    assert phases == ["calling", "calling", "searching", "tracing", "verifying"]
    (version,) = Path("models").glob("*/1")
    stored = manifest.load(version)
    assert [layer.name for layer in stored.layers] == ["layers.0", "layers.1"]
    assert stored.verification.zones[0].rows == 9


def test_the_generators_are_as_they_were() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    with module_command.other_randomness():
        assert draw() != expected
    assert draw() == expected


def test_weights_that_were_expanded_are_loaded() -> None:
    module = nn.Linear(3, 2)
    module.weight = nn.Parameter(torch.arange(3.0).expand(2, 3))
    state = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    module_command.assign(module, state)
    torch.testing.assert_close(module.weight.detach(), state["weight"])
