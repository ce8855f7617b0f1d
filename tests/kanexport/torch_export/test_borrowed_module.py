"""Tests of `torch_export/borrowed_module.py`."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from kanexport.errors import InvalidKan

torch = pytest.importorskip("torch")

from kanexport.torch_export import plan as planning  # noqa: E402 - needs torch
from kanexport.torch_export.borrowed_module import lent, unwrapped  # noqa: E402 - needs torch
from kanexport.torch_export.capture import ReferenceModule  # noqa: E402 - needs torch
from kanexport.torch_export.kan_candidates import Whole, shown  # noqa: E402 - needs torch
from kanexport.torch_export.plan import Plan  # noqa: E402 - needs torch
from tests.support import modules_unusual as odd  # noqa: E402 - needs torch


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(8, *shape)).astype(np.float32).astype(np.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def plan(module: Any, rows: np.ndarray, **options: str) -> Plan:
    whole = Whole(unwrapped(module))
    oracle = ReferenceModule.of(whole, rows)
    with lent(whole, oracle.dtype):
        return planning.make(whole, oracle, rows, options)


def families(actual: Plan) -> dict[str, str]:
    return {shown(name): reading.family for name, reading in actual.readings.items()}


EFFICIENT = "efficient-kan"


def everything(module: Any) -> list[Any]:
    """All that a lent module must have again: the objects, not equal ones."""
    result: list[Any] = []
    for part in module.modules():
        result += [type(part), part.training, *part.__dict__.items(), *part._buffers.items(), *part._modules.items()]
    for parameter in module.parameters():
        result += [parameter.data.clone(), parameter.dtype, parameter.requires_grad, parameter.grad]
    return result


@pytest.mark.parametrize("make", [odd.trained, odd.Kept, odd.tied, odd.unsaved, odd.encoder, lambda: odd.Patched(4, 3)])
def test_a_module_is_given_back_as_it_was(make: Any) -> None:
    module = make()
    before = everything(module)
    plan(module, draw(5, 4) if make is odd.encoder else draw(4))
    with pytest.raises(InvalidKan):
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


def test_a_copy_is_never_made() -> None:
    """pykan keeps what it computed, which torch cannot copy."""
    module = odd.Kept()
    module(torch.randn(2, 4))
    with pytest.raises(RuntimeError):
        copy.deepcopy(module)
    assert families(plan(module, draw(4))) == {"parts.up": EFFICIENT, "parts.down": EFFICIENT}
