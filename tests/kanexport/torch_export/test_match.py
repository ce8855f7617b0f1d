"""Layers that differ from a library's layer in some region: none is matched to the library."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kanexport.torch_export import match
from tests.support import torch_modules as modules
from tests.support.tiers import spread
from tests.support.torch_modules import draw, plan

Change = Callable[[Any, Any], Any]  # of a layer's own forward and its input


def changed(layer: type, forward: Change, *sizes: float) -> Any:
    """A layer that does something with its input, or its output, first."""
    own = type(layer.__name__, (layer,), {"forward": lambda self, x: forward(super(own, self).forward, x)})
    return own(*sizes)


def sides(x: Any) -> Any:
    """Nothing to change, as long as sources have different signs."""
    return torch.where((x > 0).all(-1, keepdim=True), x.clamp(max=0.5), x)


CHANGES: dict[str, Change] = {
    "clamped at 12 cells": lambda f, x: f(x.clamp(-12 * 0.4, 12 * 0.4)),
    "clamped at 50": lambda f, x: f(x.clamp(-50, 50)),
    "clamped at ten thousand": lambda f, x: f(x.clamp(-1e4, 1e4)),
    "another output beyond 20": lambda f, x: torch.where((x.abs() > 20).any(-1, keepdim=True), 0.0, f(x)),
    "another output where all are positive": lambda f, x: f(sides(x)),
    "another output for one large source": lambda f, x: f(torch.where(x.abs() > 5 * x.abs().median(), 0.0, x)),
    "NaN taken away": lambda f, x: f(torch.nan_to_num(x)),
    "NaN put in": lambda f, x: f(x) + 0 / (x != 0).any(-1, keepdim=True).to(x.dtype),
    "infinities taken away": lambda f, x: f(torch.where(x.isinf(), 0.0, x)),
    "its output clamped": lambda f, x: f(x).clamp(-1e4, 1e4),
}


# Each change of one layer, and two of the other.
CHANGED = [(change, modules.KANLinear) for change in CHANGES]
CHANGED += [(change, modules.FastKANLayer) for change in ("clamped at ten thousand", "NaN taken away")]
WHERE = {
    "clamped at 50": "on rows far from the example",
    "NaN taken away": "differs in values that are not finite on rows far from the example",
}


@spread("change,layer", CHANGED, 4)
def test_what_differs_far_from_the_rows_is_left_to_torch(change: str, layer: type) -> None:
    result = plan(nn.Sequential(changed(layer, CHANGES[change], 4, 3), nn.Linear(3, 2)), draw(4))
    assert "body.0" not in result.readings or result.readings["body.0"].family == "sampled"
    assert result.notes[0].startswith("0: resembles a layer of ")
    assert "differs" in result.notes[0]


@pytest.mark.parametrize("change", WHERE)
def test_the_note_says_where(change: str) -> None:
    assert WHERE[change] in plan(changed(modules.KANLinear, CHANGES[change], 4, 3), draw(4)).notes[0]


@pytest.mark.parametrize(("layer", "dtype"), [(modules.KANLinear, "float64"), (modules.FastKANLayer, "float32")])
def test_the_layer_itself_is_still_recognised(layer: type, dtype: str) -> None:
    """Also where it runs in float32 only, and behind a function that keeps its rows near zero."""
    own = (lambda f, x: f(x.float())) if dtype == "float32" else (lambda f, x: f(x))
    result = plan(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), changed(layer, own, 5, 3)), draw(4))
    assert result.oracle.dtype == getattr(torch, dtype)
    assert [reading.family for reading in result.readings.values()][1:] in (["efficient-kan"], ["fastkan"])
    assert not result.notes


def test_what_no_row_of_the_module_can_bring_about_is_tried_too() -> None:
    """Behind tanh the layer does not receive 50, but its edges may be queried there."""
    module = nn.Sequential(nn.Tanh(), changed(modules.KANLinear, CHANGES["clamped at 50"], 4, 3))
    assert "differs from the interpretation of its tensors at 1000 times its range" in plan(module, draw(4)).notes[0]


def test_probes_are_made_again_as_the_module_takes_them() -> None:
    """A layer for eight rows and no other number."""
    rows = np.random.default_rng(0).normal(size=(11, 4))
    fixed = changed(modules.KANLinear, lambda f, x: f(x.reshape(8, 4)), 4, 3).double()
    x = torch.zeros(8, 4, dtype=torch.float64)
    call = match.Call("", x.numpy(), fixed(x).detach().numpy(), fixed, (x,), {}, 0)
    pieces = list(match.calls(call, rows))
    assert [piece.x.shape for piece in pieces] == [(8, 4), (8, 4)]
    np.testing.assert_array_equal(np.concatenate([piece.x for piece in pieces])[:11], rows)
