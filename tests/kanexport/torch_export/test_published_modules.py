"""What published modules do that others do not."""

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
from kanexport.errors import InvalidKan  # noqa: E402 - needs torch
from kanexport.torch_export import state_dict  # noqa: E402 - as above
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


class Basis(nn.Module):
    """B-splines over knots that some of are equal, where an empty cell is asked for, not computed; `of_input`: asks
    something of its input as well."""

    def __init__(self, of_input: bool = False) -> None:
        super().__init__()
        self.knots = nn.Buffer(torch.tensor([-2.0, -1.0, -1.0, 0.0, 1.0, 2.0, 3.0]))
        self.out, self.of_input = nn.Linear(4, 2), of_input

    def cell(self, x: Any, i: int, k: int) -> Any:
        if k == 0:
            return ((self.knots[i] <= x) & (x < self.knots[i + 1])).to(x.dtype)
        left, right = self.knots[i + k] - self.knots[i], self.knots[i + k + 1] - self.knots[i + 1]
        total = torch.zeros_like(x)
        if left != 0:
            total = total + (x - self.knots[i]) / left * self.cell(x, i, k - 1)
        if right.item() != 0:
            total = total + (self.knots[i + k + 1] - x) / right * self.cell(x, i + 1, k - 1)
        return total

    def forward(self, x: Any) -> Any:
        if self.of_input and self.knots.clone().add_(x.mean()).sum() > 1e6:
            x = -x
        return self.out(sum(self.cell(x, i, 2) for i in range(4)))


def test_what_is_asked_of_weights_is_part_of_the_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Basis()
    require_alike(export(module, tmp_path, 4), module, 4)


def test_what_is_asked_of_inputs_stops_a_trace(tmp_path: Path) -> None:
    with pytest.raises(InvalidKan, match="a branch or a size depends on the values of a tensor"):
        export(Basis(of_input=True), tmp_path, 4)


class Mapped(nn.Module):
    """A small network for each edge, mapped over rows, sources and destinations."""

    def __init__(self) -> None:
        super().__init__()
        self.rates, self.sums = nn.Parameter(torch.randn(4, 3, 5, 1)), nn.Parameter(torch.randn(4, 3, 1, 5))

    def forward(self, x: Any) -> Any:
        def edge(value: Any, rates: Any, sums: Any) -> Any:
            return F.linear(torch.tanh(F.linear(value, rates)), sums)

        row = torch.vmap(torch.vmap(edge, (None, 0, 0)), (0, 0, 0))
        return torch.vmap(lambda one: row(one[:, None], self.rates, self.sums).squeeze(-1))(x).sum(1)


def test_a_module_mapped_by_torch_func_takes_any_number_of_rows(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Mapped()
    result = export(module, tmp_path, 4)
    assert [(layer.name, layer.bases[0].kind) for layer in result.manifest.layers] == [("(itself)", "sampled")]
    require_alike(result, module, 4)


def test_weights_that_were_expanded_are_loaded() -> None:
    module = nn.Linear(3, 2)
    module.weight = nn.Parameter(torch.arange(3.0).expand(2, 3))
    state = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}
    state_dict.assign(module, state)
    torch.testing.assert_close(module.weight.detach(), state["weight"])
