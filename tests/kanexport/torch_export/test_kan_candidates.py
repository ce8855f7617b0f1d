"""Tests of `torch_export/kan_candidates.py`."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.support import modules_unusual as odd
from tests.support import torch_modules as modules
from tests.support.torch_modules import draw, families, plan

EFFICIENT = "efficient-kan"


def with_frequencies() -> Any:
    """Complex numbers, as of rotary embeddings, which no reader takes."""
    net = nn.Sequential(modules.KANLinear(4, 3))
    net.register_buffer("frequencies", torch.ones(2, dtype=torch.complex64), persistent=False)
    return net


WAYS = {
    "a closure": (odd.Kept, {"parts.up": EFFICIENT, "parts.down": EFFICIENT}),
    "calls of every kind": (
        odd.Calling,
        {"named": "fastkan", "direct": EFFICIENT, "more": "fastkan", "tied": "linear"},
    ),
    "two names": (odd.tied, {"0.0": "linear", "0.1": EFFICIENT}),
    "DataParallel": (lambda: nn.DataParallel(odd.tied()), {"0.0": "linear", "0.1": EFFICIENT}),
    "compiled": (lambda: torch.compile(odd.tied(), backend="eager"), {"0.0": "linear", "0.1": EFFICIENT}),
    "compiled inside": (
        lambda: nn.Sequential(torch.compile(modules.KANLinear(4, 3), backend="eager"), nn.Linear(3, 2)),
        {"0": EFFICIENT, "1": "linear"},
    ),
    "unsaved complex numbers beside it": (with_frequencies, {"0": EFFICIENT}),
    "unsaved grids": (odd.unsaved, {"0": EFFICIENT, "1": EFFICIENT}),
    "a parametrised weight": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))),
        {"0": "linear"},
    ),
    "a class that is not below": (lambda: nn.Sequential(odd.Patched(4, 3)), {"0": EFFICIENT}),
    "half precision": (lambda: modules.Stack(modules.KANLinear(4, 3)).half(), {"layers.0": EFFICIENT}),
    "training": (odd.trained, {"0": "linear", "3": EFFICIENT}),
}


@pytest.mark.parametrize("way", WAYS)
def test_layers_are_found_however_they_are_used(way: str) -> None:
    make, expected = WAYS[way]
    result = plan(make(), draw(4))
    assert families(result) == expected
    assert all(use.axes == (-1,) for use in result.uses)
    assert not result.notes


def test_torchs_own_blocks_call_what_is_inside() -> None:
    assert families(plan(odd.encoder(), draw(5, 4))) == {"0.linear1": "linear", "0.linear2": EFFICIENT}


def test_many_layers_that_are_left_make_one_note() -> None:
    result = plan(nn.Sequential(*(modules.Impostor(4, 4) for _ in range(9))), draw(4))
    note, none = result.notes
    assert note.startswith("0, 1, 2, 3, 4 and 4 more: resembles")
    assert none == "the exporter recognized no KAN layer, so clients cannot query edges"
