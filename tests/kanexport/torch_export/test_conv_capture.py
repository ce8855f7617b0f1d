"""Tests of `torch_export/conv_capture.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kanexport.verify import float64_reference
from tests.support.golden_cases import relative_error

torch = pytest.importorskip("torch")

from kanexport.torch_export import plan as planning  # noqa: E402 - needs torch
from kanexport.torch_export.borrowed_module import lent  # noqa: E402 - needs torch
from kanexport.torch_export.capture import ReferenceModule  # noqa: E402 - needs torch
from kanexport.torch_export.kan_candidates import Whole  # noqa: E402 - needs torch
from tests.support.conv_layers import Bells  # noqa: E402 - needs torch

nn, functional = torch.nn, torch.nn.functional


class Begun(Bells):
    """Functions of what a module normalises over the picture, beside functions of what it is given."""

    def __init__(self, n: int, m: int, **settings: Any) -> None:
        super().__init__(n, m, **settings)
        self.begin = nn.InstanceNorm2d(n, affine=True)

    def basis(self, x: Any) -> Any:
        return super().basis(self.begin(x))


class Projected(Bells):
    """Functions of a few mixtures of the channels, convolved and mixed again, beside functions of the channels."""

    def __init__(self, n: int, m: int, **settings: Any) -> None:
        super().__init__(n, m, **settings)
        self.inner, self.outer = nn.Conv2d(n, 2, 1, bias=False), nn.Conv2d(2, m, 1)
        self.few = nn.Conv2d(2 * self.kinds, 2, 3, **settings)

    def group(self, x: Any, at: int) -> Any:
        total = self.outer(self.few(self.basis(self.inner(x)))) + self.base_conv[at](functional.silu(x))
        self.sums.append(total)
        return self.prelus[at](self.norms[at](total))


def planned(module: Any, x: np.ndarray) -> tuple[Any, Any]:
    torch.manual_seed(0)
    whole = Whole(module.eval())
    oracle = ReferenceModule.of(whole, x)
    with lent(whole, oracle.dtype):
        return whole, planning.make(whole, oracle, x, {})


def rows(*shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=scale, size=(5, *shape)).astype(np.float32).astype(np.float64)


def sums(module: Any, x: np.ndarray) -> np.ndarray:
    """Return the sums that the module computes [B, *positions, m]."""
    with torch.no_grad():
        module.double()(torch.from_numpy(x))
    return np.moveaxis(torch.cat(module.sums, dim=1).numpy(), 1, -1)


def edge_sums(whole: Any, plan: Any, x: np.ndarray) -> np.ndarray:
    """Return the edge sums of all layers, concatenated in layer order."""
    result = []
    with lent(whole, plan.oracle.dtype):
        for layer, vectors in zip(plan.layers, plan.evaluate(x).inputs, strict=True):
            pieces = [edges for _, edges, _ in float64_reference.edges(layer, vectors.reshape(-1, vectors.shape[-1]))]
            total = np.concatenate(pieces).sum(axis=1) + layer.bias
            result.append(total.reshape(*vectors.shape[:-1], -1))
    return np.concatenate(result, axis=-1)


@pytest.mark.parametrize(("kind", "begins"), [(Begun, "begin"), (Projected, "inner")])
def test_what_begins_inside_of_a_module_has_edges_from_there(kind: Any, begins: str) -> None:
    torch.manual_seed(3)
    module = kind(3, 4, padding=1)
    whole, plan = planned(module, rows(3, 5, 6))
    assert [use.name for use in plan.uses] == [f"body.{begins}", "body"]
    for scale in (1.0, 30.0, 1e3):
        x = rows(3, 5, 6, scale=scale)
        result, expected = edge_sums(whole, plan, x), sums(module, x)
        assert relative_error(result[..., :4] + result[..., 4:], expected) < 1e-9
