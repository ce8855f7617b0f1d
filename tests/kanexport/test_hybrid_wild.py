"""What published modules do that others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from golden_cases import OUTPUT_TOLERANCE, relative_error

torch = pytest.importorskip("torch")
nn = torch.nn
F = torch.nn.functional

from kanexport.hybrid import weights  # noqa: E402 - needs torch
from kanexport.hybrid.convert import convert  # noqa: E402 - as above
from kanexport.packing.publish import Result, Target  # noqa: E402 - as above


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


def test_weights_that_were_expanded_are_loaded() -> None:
    module = nn.Linear(3, 2)
    module.weight = nn.Parameter(torch.arange(3.0).expand(2, 3))
    state = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    weights.put(module, state)
    torch.testing.assert_close(module.weight.detach(), state["weight"])
