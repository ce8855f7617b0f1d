"""Tests of `torch_export/additive.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.support.golden_cases import EDGE_TOLERANCE, relative_error
from tests.support.tiers import full
from tests.support.torch_modules import Around, Bumps, Composed, Waves, draw, edges_of, export, families, plan


class Mixed(Bumps):
    """The same tensors, and a product of two sources."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + 0.01 * (x[..., :1] * x[..., -1:])


def test_what_does_not_add_up_has_no_edges() -> None:
    result = plan(nn.Sequential(Mixed(4, 3), nn.Tanh(), nn.Linear(3, 2)), draw(4))
    assert families(result) == {"2": "linear"}
    (note,) = result.notes
    assert note.startswith(
        "0: has coefficients like those of a KAN layer without a reader, but differs from the sum of its edges"
    )


def wrapped() -> Composed:
    """A layer that sees its row through a norm and as it is, and one in a class that adds nothing to it."""
    return Composed(
        lambda m, x: m.waves(m.norm(x)) + m.base(torch.tanh(x)),
        norm=nn.LayerNorm(4),
        base=nn.Linear(4, 3),
        waves=Waves(4, 3),
    )


@full("combination")
def test_a_layer_may_begin_with_a_norm_of_its_row(tmp_path: Path) -> None:
    module = wrapped()
    result = export(module, draw(4), tmp_path)
    (layer,) = result.manifest.layers
    assert (layer.name, layer.edge_class, result.manifest.edge_class) == ("(itself)", "B", "B")
    steps = [(step.kind, step.function) for basis in layer.bases for step in basis.pre_steps]
    assert steps == [("module", "LayerNorm")]
    x = draw(4, rows=6, seed=2, scale=3)
    edges = edges_of(result, 0, x)
    with torch.no_grad():
        raw = torch.from_numpy(x).double()
        z = module.double().norm(raw)
        y = module(raw).numpy()
        base, b = module.base.weight.T, module.norm.bias
        phi = torch.sin(z[:, :, None] * module.waves.rates.T) - torch.sin(b[:, None] * module.waves.rates.T)
        phi = phi + torch.tanh(raw)[:, :, None] * base
    assert relative_error(edges, phi.numpy()) <= EDGE_TOLERANCE
    assert relative_error(edges.sum(axis=1) + np.asarray(layer.bias or 0), y) <= EDGE_TOLERANCE


def test_layers_that_may_begin_with_a_norm_or_are_straight_are_known_by_their_outputs() -> None:
    assert families(plan(wrapped(), draw(4))) == {"(itself)": "sampled"}
    assert families(plan(Around(nn.Linear(4, 3)), draw(4))) == {"inner": "linear", "out": "linear"}
    assert families(plan(Around(Waves(4, 3)), draw(4))) == {"inner": "sampled", "out": "linear"}
