"""Tests of `torch_export/additive.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kanexport.bundle.publish import Result, Target
from tests.support.golden_cases import EDGE_TOLERANCE, relative_error

torch = pytest.importorskip("torch")
nn = torch.nn

from kanexport.torch_export import match  # noqa: E402 - needs torch
from kanexport.torch_export.capture import Call  # noqa: E402 - needs torch
from kanexport.torch_export.convert import convert  # noqa: E402 - needs torch
from kanexport.torch_export.sampled_layer import Sampled  # noqa: E402 - needs torch
from tests.support.torch_modules import Around, Bumps, Waves  # noqa: E402 - needs torch


class Mixed(Bumps):
    """The same tensors, and a product of two sources."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + 0.01 * (x[..., :1] * x[..., -1:])


def export(module: Any, folder: Path, *shape: int, **settings: Any) -> Result:
    rows = np.random.default_rng(1).normal(size=(9, *shape)).astype(np.float32)
    return convert(module, rows, Target(repository=folder, name="m", **settings), options={})


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_what_does_not_add_up_has_no_edges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    manifest = export(nn.Sequential(Mixed(4, 3), nn.Tanh(), nn.Linear(3, 2)), tmp_path, 4).manifest
    assert [layer.name for layer in manifest.layers] == ["2"]
    assert any(
        note.startswith(
            "0: has coefficients like those of a KAN layer without a reader, but differs from the sum of its edges"
        )
        for note in manifest.notes
    )


class Wrapped(nn.Module):
    """A layer that sees its row through a norm and as it is, and one in a class that adds nothing to it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.base = nn.LayerNorm(4), nn.Linear(4, 3)
        self.waves = Waves(4, 3)

    def forward(self, x: Any) -> Any:
        return self.waves(self.norm(x)) + self.base(torch.tanh(x))


def test_a_layer_may_begin_with_a_norm_of_its_row(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Wrapped()
    result = export(module, tmp_path, 4)
    (layer,) = result.manifest.layers
    assert (layer.name, layer.edge_class, result.manifest.edge_class) == ("(itself)", "B", "B")
    assert [(step.kind, step.function) for basis in layer.bases for step in basis.pre_steps] == [
        ("module", "LayerNorm")
    ]
    x = np.random.default_rng(2).normal(scale=3, size=(6, 4)).astype(np.float32)
    edges = run(result.directory / layer.edges_file, {layer.node_tensor: x})[layer.edges_tensor]
    with torch.no_grad():
        raw = torch.from_numpy(x).double()
        z = module.double().norm(raw)
        y = module(raw).numpy()
        base, b = module.base.weight.T, module.norm.bias
        phi = torch.sin(z[:, :, None] * module.waves.rates.T) - torch.sin(b[:, None] * module.waves.rates.T)
        phi = phi + torch.tanh(raw)[:, :, None] * base
    assert relative_error(edges, phi.numpy()) <= EDGE_TOLERANCE
    assert relative_error(edges.sum(axis=1) + np.asarray(layer.bias or 0), y) <= EDGE_TOLERANCE


def test_what_is_straight_stays_a_linear_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    manifest = export(Around(nn.Linear(4, 3)), tmp_path, 4).manifest
    assert [(layer.name, layer.bases[0].kind) for layer in manifest.layers] == [
        ("inner", "identity"),
        ("out", "identity"),
    ]


class _Sines(torch.nn.Module):
    """A layer of sines without a reader; counts the rows that it gets outside of a trace."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.weight, self.rows = torch.nn.Parameter(torch.randn(m, n, 3) / n), [0]

    def forward(self, x: Any) -> Any:
        if not torch.compiler.is_compiling():
            self.rows[0] += int(x.numel()) // x.shape[-1]
        basis = torch.stack([torch.sin(x * k + k * k) for k in range(1, 4)], -1)
        return torch.einsum("...ik,oik->...o", basis, self.weight)


def test_a_wide_layer_is_tried_with_a_fixed_number_of_vectors() -> None:
    """For each vector the layer runs once per source."""
    torch.manual_seed(0)
    layer, counts = _Sines(200, 64), []
    for vectors in (100, 1000):
        x = np.random.default_rng(0).normal(size=(vectors, 200))
        layer.double()
        with torch.no_grad():
            y = layer(torch.from_numpy(x)).numpy()
        call = Call("layer", x, y, layer, (torch.from_numpy(x),), {}, 0)
        kan, layer.rows[0] = Sampled.of(call).kan(), 0
        assert match._error(call, kan) < 1e-9
        counts.append(layer.rows[0])
    assert counts[0] == counts[1] <= 50 * 200
