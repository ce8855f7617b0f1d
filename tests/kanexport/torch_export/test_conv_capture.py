"""Tests of `torch_export/conv_capture.py`."""

from typing import Any

import pytest
from torch import nn
from torch.nn import functional

from tests.support.golden_cases import relative_error
from tests.support.torch_modules import Begun, Bells, edge_sums, planned, rows, sums


class Projected(Bells):
    """Functions of a few mixtures of the channels, convolved and mixed again, and functions of the channels."""

    def __init__(self, n: int, m: int, **settings: Any) -> None:
        super().__init__(n, m, **settings)
        self.inner, self.outer = nn.Conv2d(n, 2, 1, bias=False), nn.Conv2d(2, m, 1)
        self.few = nn.Conv2d(2 * self.kinds, 2, 3, **settings)

    def group(self, x: Any, at: int) -> Any:
        total = self.outer(self.few(self.basis(self.inner(x)))) + self.base_conv[at](functional.silu(x))
        self.sums.append(total)
        return self.prelus[at](self.norms[at](total))


@pytest.mark.parametrize(("kind", "begins"), [(Begun, "begin"), (Projected, "inner")])
def test_what_begins_inside_of_a_module_has_edges_from_there(kind: Any, begins: str) -> None:
    module = kind(3, 4, padding=1)
    whole, plan = planned(module, rows(3, 4, 5))
    assert [use.name for use in plan.uses] == [f"body.{begins}", "body"]
    for scale in (1.0, 1e3):
        x = rows(3, 4, 5, scale=scale)
        result, expected = edge_sums(whole, plan, x), sums(module, x)
        assert relative_error(result[..., :4] + result[..., 4:], expected) < 1e-9
