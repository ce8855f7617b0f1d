"""Modules in which some layers cannot be replaced, and batch sizes that a trace does not cover."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kanexport.errors import InvalidKan, OptionError, VerificationFailed
from tests.support import torch_modules as modules
from tests.support.tiers import full


class Peeking(modules.FastKANLayer):
    """The calling module reads a value that the layer keeps of a call; a placeholder does not keep it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = super().forward(x)
        return self.seen


def test_only_the_layer_that_cannot_be_replaced_is_torchs_and_has_edges(tmp_path: Path) -> None:
    def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        module.second.seen = None
        return module.second(module.first(x)) + module.second.seen

    module = modules.Composed(forward, first=nn.Linear(4, 5), second=Peeking(5, 4))
    result = modules.export(module, modules.draw(4), tmp_path)
    assert modules.names(result) == ["first", "second"]
    (note,) = [note for note in result.manifest.notes if "from a separate graph" in note]
    assert note.startswith("second: exported by torch.onnx, with edge values from a separate graph, because")
    modules.require_alike(result, module, 1, 5)


def test_a_layer_is_kept_as_it_is_by_name() -> None:
    module = nn.Sequential(modules.KANLinear(4, 5), nn.Sequential(modules.KANLinear(5, 5), modules.KANLinear(5, 3)))
    result = modules.plan(module, modules.draw(4), keep="1.?")
    assert list(modules.families(result)) == ["0"]
    assert "1.0, 1.1: not replaced, because of --option keep" in result.notes
    with pytest.raises(OptionError, match=r"option keep: the module has no submodule '1\.2'") as caught:
        modules.plan(module, modules.draw(4), keep="0, 1.2")
    assert "did you mean '1." in caught.value.hint


def far(out: nn.Module, p: float = 2.0) -> modules.Composed:
    """Distances of two vectors a row, which torch.onnx has no operator for. Above 25 vectors torch goes another way."""

    def forward(module: Any, x: torch.Tensor) -> torch.Tensor:
        near = torch.exp(-torch.cdist(x.reshape(-1, 2), module.places, p=p))
        return module.out(near.reshape(len(x), 12))

    return modules.Composed(forward, places=nn.Parameter(torch.randn(6, 2)), out=out)


def parted(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Large batches are computed in another way, with the same result."""
    return module.out(x if x.shape[0] <= 25 else x * 2 / 2)


def turning(module: Any, x: torch.Tensor) -> torch.Tensor:
    """Large batches have another result."""
    return x if x.shape[0] < 40 else -x


def test_a_branch_on_the_number_of_rows_that_gives_the_same_is_exported(tmp_path: Path) -> None:
    module = modules.Composed(parted, out=nn.Linear(4, 2))
    result = modules.export(module, modules.draw(4), tmp_path)
    assert modules.names(result) == ["out"]
    assert {f"batch of {count}" for count in (2, 26, 33)} <= {zone.name for zone in result.manifest.verification.zones}
    modules.require_alike(result, module, 1, 3, 40)


@full("combination")
def test_a_branch_on_the_number_of_rows_that_matters_is_refused(tmp_path: Path) -> None:
    module = far(modules.Composed(turning))
    with pytest.raises((InvalidKan, VerificationFailed), match=r"number of rows|on batch of \d+ rows"):
        modules.export(module, modules.draw(4), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("p", [pytest.param(2.0, marks=full("combination")), 3.0])
def test_distances_from_few_places(p: float, tmp_path: Path) -> None:
    module = far(nn.Linear(12, 2), p)
    modules.require_alike(modules.export(module, modules.draw(4), tmp_path), module, 1, 3, 40)
