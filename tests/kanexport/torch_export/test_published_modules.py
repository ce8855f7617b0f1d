"""Unusual constructs of published modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.support.golden_cases import OUTPUT_TOLERANCE, relative_error

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional

from kanexport.bundle.publish import Result, Target  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above


def export(module: Any, folder: Path, *shape: int) -> Result:
    rows = np.random.default_rng(1).normal(size=(9, *shape)).astype(np.float32)
    return convert(module, rows, Target(repository=folder, name="m"), options={})


def require_alike(result: Result, module: Any, *shape: int) -> None:
    x = np.random.default_rng(2).normal(scale=2, size=(5, *shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(result.directory / "model.onnx"), providers=["CPUExecutionProvider"])
    (y,) = session.run(["y"], {"x": x})
    with torch.no_grad():
        assert relative_error(y, module(torch.from_numpy(x)).numpy()) <= OUTPUT_TOLERANCE


class OneHead(nn.Module):
    """Attention on [N, L, E], with a mask of three axes or without."""

    def __init__(self, masked: bool, causal: bool) -> None:
        super().__init__()
        self.qkv, self.causal = nn.Linear(6, 18), causal
        self.mask = nn.Buffer(torch.randn(1, 5, 5)) if masked else None

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, is_causal=self.causal)


@pytest.mark.parametrize(("masked", "causal"), [(False, False), (True, False), (False, True)])
def test_attention_needs_no_axis_of_heads(masked: bool, causal: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = OneHead(masked, causal)
    result = export(module, tmp_path, 5, 6)
    assert [layer.name for layer in result.manifest.layers] == ["qkv"]
    require_alike(result, module, 5, 6)


class Mapped(nn.Module):
    """A small network for each edge, mapped over rows, sources and destinations."""

    def __init__(self) -> None:
        super().__init__()
        self.rates, self.sums = nn.Parameter(torch.randn(4, 3, 5, 1)), nn.Parameter(torch.randn(4, 3, 1, 5))

    def forward(self, x: Any) -> Any:
        def edge(value: Any, rates: Any, sums: Any) -> Any:
            return F.linear(torch.tanh(F.linear(value, rates)), sums)

        row = torch.vmap(torch.vmap(edge, (None, 0, 0)), (0, 0, 0))
        return torch.vmap(lambda item: row(item[:, None], self.rates, self.sums).squeeze(-1))(x).sum(1)


def test_a_module_mapped_by_torch_func_takes_any_number_of_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Mapped()
    result = export(module, tmp_path, 4)
    assert [(layer.name, layer.bases[0].kind) for layer in result.manifest.layers] == [("(itself)", "sampled")]
    require_alike(result, module, 4)
