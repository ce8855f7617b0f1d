"""Tests of `torch_export/conv_graphs.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kanexport.bundle.publish import Result, Target
from tests.support.golden_cases import EDGE_TOLERANCE, relative_error

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional

from kanexport.torch_export.convert import convert  # noqa: E402 - needs torch
from tests.support.conv_layers import Begun, Powers, rows, sums  # noqa: E402 - needs torch


class Network(nn.Module):
    """One of them, another one twice for pictures of two sizes, and a line."""

    def __init__(self, first: Any, again: Any) -> None:
        super().__init__()
        self.first, self.again, self.out = first, again, nn.Linear(again.n, 3)

    def forward(self, x: Any) -> Any:
        y = self.again(self.first(x))
        return self.out(self.again(functional.avg_pool2d(y, 2)).mean((2, 3)))


def export(module: Any, folder: Path, *shape: int, **settings: Any) -> Result:
    x = rows(*shape).astype(np.float32)
    return convert(module, x, Target(repository=folder, name="m", **settings), options={})


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize("dtype", ["float32"])
def test_a_network_of_them_is_served_with_edges(dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Network(Begun(3, 4, padding=1, stride=2), Powers(4, 4, groups=2, padding=1)).eval()
    result = export(module, tmp_path, 3, 12, 12, dtype=dtype)
    layers = result.manifest.layers
    assert [(layer.name, layer.sources, layer.destinations, layer.positions) for layer in layers] == [
        ("first.begin", 36, 4, (6, 6)),
        ("first", 27, 4, (6, 6)),
        ("again.0#1", 27, 2, (6, 6)),
        ("again.1#1", 27, 2, (6, 6)),
        ("again.0#2", 27, 2, (3, 3)),
        ("again.1#2", 27, 2, (3, 3)),
        ("out", 4, 3, ()),
    ]
    assert [basis.kind for layer in layers[:-1] for basis in layer.bases] == ["sampled"] * 6
    notes = "\n".join(result.manifest.notes)
    assert "again, first.begin, first: a KAN convolution" in notes
    assert "first.begin: its sources are its outputs" in notes
    assert "padded with zeros after its functions" in notes
    x = np.random.default_rng(2).normal(size=(7, 3, 12, 12)).astype(dtype)
    actual = run(result.directory / "model.onnx", {"x": x})
    module.first.double()
    expected = sums(module.first, x.astype(np.float64))
    total = 0
    for layer in layers[:2]:
        vectors = actual[layer.node_tensor].reshape(-1, layer.sources)
        edges = run(result.directory / layer.edges_file, {layer.node_tensor: vectors})[layer.edges_tensor]
        assert edges.shape == (7 * 36, layer.sources, 4)
        assert (edges[:, :27][vectors[:, :27] == 0] == 0).all()
        total = total + edges.sum(axis=1)
    assert relative_error(total.reshape(expected.shape), expected) < EDGE_TOLERANCE
