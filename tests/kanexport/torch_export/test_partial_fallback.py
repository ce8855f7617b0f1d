"""Modules in which some layers cannot be replaced, and batch sizes that a trace does not cover."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.support.golden_cases import OUTPUT_TOLERANCE, relative_error

torch = pytest.importorskip("torch")
nn = torch.nn

from kanexport.bundle.publish import Result, Target  # noqa: E402 - as above
from kanexport.errors import InvalidKan, OptionError  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from tests.support.torch_modules import KANLinear  # noqa: E402 - needs torch


def export(module: Any, rows: np.ndarray, folder: Path, **options: str) -> Result:
    return convert(module, rows, Target(repository=folder, name="m"), options=options)


def draw(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, *shape)).astype(np.float32)


def require_right(result: Result, module: Any, *counts: int) -> None:
    """The graph gives what the module gives, for batches of so many rows."""
    data = (result.directory / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for count in counts:
        x = draw(count, *result.manifest.input.shape[1:])
        with torch.no_grad():
            y = module.double().eval()(torch.from_numpy(x).double()).numpy()
        assert relative_error(session.run(["y"], {"x": x})[0], y) <= OUTPUT_TOLERANCE


class Peeking(KANLinear):
    """The calling module reads a value that the layer keeps of a call; a placeholder does not keep it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = super().forward(x)
        return self.seen


class Net(nn.Module):
    """Two layers; one of them cannot be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = KANLinear(4, 5), Peeking(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.second.seen = None
        return self.second(self.first(x)) + self.second.seen


def test_only_the_layer_that_cannot_be_replaced_is_torchs_and_has_edges(tmp_path: Path) -> None:
    module = Net()
    result = export(module, draw(9, 4), tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["first", "second"]
    (note,) = [note for note in result.manifest.notes if "from a separate graph" in note]
    assert note.startswith("second: exported by torch.onnx, with edge values from a separate graph, because")
    require_right(result, module, 1, 5)


def test_a_layer_is_kept_as_it_is_by_name(tmp_path: Path) -> None:
    module = nn.Sequential(KANLinear(4, 5), nn.Sequential(KANLinear(5, 5), KANLinear(5, 3)))
    result = export(module, draw(9, 4), tmp_path, keep="1.?")
    assert [layer.name for layer in result.manifest.layers] == ["0"]
    assert "1.0, 1.1: not replaced, because of --option keep" in result.manifest.notes
    with pytest.raises(OptionError, match=r"option keep: the module has no submodule '1\.2'") as caught:
        export(module, draw(9, 4), tmp_path / "other", keep="0, 1.2")
    assert "did you mean '1." in caught.value.hint


class Far(nn.Module):
    """Distances, which torch.onnx has no operator for."""

    def __init__(self, out: Any, *, places: int = 30, p: float = 2.0) -> None:
        super().__init__()
        self.places, self.out, self.p = nn.Parameter(torch.randn(places, 4)), out, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.exp(-torch.cdist(x, self.places, p=self.p)))


class Parted(nn.Module):
    """Large batches are computed in another way, with the same result."""

    def __init__(self) -> None:
        super().__init__()
        self.out = KANLinear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x if x.shape[0] <= 25 else x * 2 / 2)


class Turning(nn.Module):
    """Large batches have another result."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.shape[0] < 40 else -x


def test_a_branch_on_the_number_of_rows_that_gives_the_same_is_exported(tmp_path: Path) -> None:
    module = Parted()
    result = export(module, draw(9, 4), tmp_path)
    assert [layer.name for layer in result.manifest.layers] == ["out"]
    assert {f"batch of {count}" for count in (2, 26, 33)} <= {zone.name for zone in result.manifest.verification.zones}
    require_right(result, module, 1, 3, 40)


def test_a_branch_on_the_number_of_rows_that_matters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidKan, match="not compute the same for every number of rows"):
        export(Far(Turning()), draw(9, 4), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("p", [2.0, 3.0])
def test_distances_from_few_places(p: float, tmp_path: Path) -> None:
    """torch.onnx has no operator for these."""
    module = Far(KANLinear(6, 2), places=6, p=p)
    require_right(export(module, draw(9, 4), tmp_path), module, 1, 3, 40)
