"""Tests of `torch_export/conv_graphs.py`."""

from pathlib import Path

import numpy as np
from torch import nn

from tests.support.golden_cases import EDGE_TOLERANCE, relative_error, run
from tests.support.torch_modules import Begun, Composed, draw, edges_of, export, rows, sums


def test_a_network_of_them_is_served_with_edges(tmp_path: Path) -> None:
    parts = {"first": Begun(3, 4, padding=1, stride=2), "out": nn.Linear(4, 3)}
    module = Composed(lambda m, x: m.out(m.first(x).mean((2, 3))), **parts).eval()
    result = export(module, rows(3, 8, 8).astype(np.float32), tmp_path)
    layers = result.manifest.layers
    assert [(layer.name, layer.sources, layer.destinations, layer.positions) for layer in layers] == [
        ("first.begin", 36, 4, (4, 4)),
        ("first", 27, 4, (4, 4)),
        ("out", 4, 3, ()),
    ]
    assert [basis.kind for layer in layers[:-1] for basis in layer.bases] == ["sampled"] * 2
    notes = "\n".join(result.manifest.notes)
    assert "first.begin, first: a KAN convolution" in notes
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
