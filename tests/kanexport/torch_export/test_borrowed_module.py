"""Tests of `torch_export/borrowed_module.py`."""

from typing import Any

import pytest
import torch

from kanexport.errors import ModuleRefused
from tests.support import modules_unusual as odd
from tests.support.torch_modules import draw, plan


def everything(module: Any) -> list[Any]:
    """All that a lent module must have again: the objects, not equal ones."""
    result: list[Any] = []
    for part in module.modules():
        result += [type(part), part.training, *part.__dict__.items(), *part._buffers.items(), *part._modules.items()]
    for parameter in module.parameters():
        result += [parameter.data.clone(), parameter.dtype, parameter.requires_grad, parameter.grad]
    return result


def used() -> Any:
    """It keeps what it computed, as pykan does, which torch cannot copy."""
    module = odd.Kept()
    module(torch.randn(2, 4))
    return module


@pytest.mark.parametrize("make", [odd.trained, used, odd.tied, odd.unsaved, odd.encoder, lambda: odd.Patched(4, 3)])
def test_a_module_is_given_back_as_it_was(make: Any) -> None:
    module = make()
    before = everything(module)
    plan(module, draw(5, 4) if make is odd.encoder else draw(4))
    with pytest.raises(ModuleRefused):
        plan(module, draw(7))
    after = everything(module)
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, torch.Tensor):
            assert torch.equal(old, new)
        elif isinstance(old, tuple):
            assert old[0] == new[0]
            assert old[1] is new[1]
        else:
            assert old == new
