"""Tests of `torch_export/conv_graphs.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from tests.support.conv_layers import Begun, Powers, rows, sums
from tests.support.exported_graphs import run
from tests.support.golden_cases import EDGE_TOLERANCE, relative_error
from tests.support.torch_exports import draw, edges_of, export


class Network(nn.Module):
    """One of them, another one twice for pictures of two sizes, and a line."""

    def __init__(self, first: Any, again: Any) -> None:
        super().__init__()
        self.first, self.again, self.out = first, again, nn.Linear(again.n, 3)

    def forward(self, x: Any) -> Any:
        y = self.again(self.first(x))
        return self.out(self.again(functional.avg_pool2d(y, 2)).mean((2, 3)))


def test_a_network_of_them_is_served_with_edges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Network(Begun(3, 4, padding=1, stride=2), Powers(4, 4, groups=2, padding=1)).eval()
    result = export(module, rows(3, 8, 8).astype(np.float32), tmp_path)
    layers = result.manifest.layers
    assert [(layer.name, layer.sources, layer.destinations, layer.positions) for layer in layers] == [
        ("first.begin", 36, 4, (4, 4)),
        ("first", 27, 4, (4, 4)),
        ("again.0#1", 27, 2, (4, 4)),
        ("again.1#1", 27, 2, (4, 4)),
        ("again.0#2", 27, 2, (2, 2)),
        ("again.1#2", 27, 2, (2, 2)),
        ("out", 4, 3, ()),
    ]
    assert [basis.kind for layer in layers[:-1] for basis in layer.bases] == ["sampled"] * 6
    notes = "\n".join(result.manifest.notes)
    assert "again, first.begin, first: a KAN convolution" in notes
    assert "first.begin: its sources are its outputs" in notes
    assert "padded with zeros after its functions" in notes
    x = draw(3, 8, 8, rows=7, seed=2)
    actual = run(result.directory / "model.onnx", {"x": x})
    module.first.double()
    expected = sums(module.first, x.astype(np.float64))
    total = 0
    for at, layer in enumerate(layers[:2]):
        vectors = actual[layer.node_tensor].reshape(-1, layer.sources)
        edges = edges_of(result, at, vectors)
        assert edges.shape == (7 * 16, layer.sources, 4)
        assert (edges[:, :27][vectors[:, :27] == 0] == 0).all()
        total = total + edges.sum(axis=1)
    assert relative_error(total.reshape(expected.shape), expected) < EDGE_TOLERANCE
