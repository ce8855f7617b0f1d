"""KAN convolutions: edges of every channel and kernel element at every position, exact with padding."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from kanexport.torch_export import conv_detect
from kanexport.torch_export.borrowed_module import lent
from tests.support import torch_modules as modules
from tests.support.golden_cases import relative_error
from tests.support.tiers import spread
from tests.support.torch_modules import Bells, Powers, edge_sums, planned, rows, sums


class Of(Bells):
    """Functions of a change of the picture."""

    def __init__(self, change: Any) -> None:
        super().__init__(3, 4, padding=1)
        self.change = change

    def basis(self, x: Any) -> Any:
        return super().basis(self.change(x))


# No KAN convolutions: functions of a channel and of the others, the same far from all that was seen, functions that
# know where they are, and functions of what is normalised over the picture first.
ALIKE = {
    "mixed": lambda x: x - 0.01 * x.mean(1, keepdim=True),
    "mixed far away": lambda x: torch.where(x.abs().amax(1, keepdim=True) > 400, 2 * x, x),
    "placed": lambda x: x + 0.1 * torch.linspace(0, 1, x.shape[-1], dtype=x.dtype),
    "normed": functional.instance_norm,
}


class Wavelets(nn.Module):
    """A wavelet for every pair of channels, a convolution of each, and one of a single place that mixes them."""

    def __init__(self, n: int, m: int, way: str) -> None:
        super().__init__()
        self.way, shape = way, (1, m, n, 1, 1)
        self.scale, self.translation = nn.Parameter(torch.rand(shape) + 0.5), nn.Parameter(torch.randn(shape))
        self.base = nn.Conv2d(n, m, 3, padding=1, bias=False)
        self.each = nn.ModuleList(nn.Conv2d(n, 1, 3, padding=1) for _ in range(m))
        self.apart = nn.Conv2d(n * m, m, 3, padding=1, groups=m)
        self.deep = nn.Conv3d(m, m, (n, 3, 3), padding=(0, 1, 1), groups=m)
        self.mix = nn.Conv2d(m, m, 1)
        self.norm = nn.BatchNorm2d(m)
        self.sums: list[Any] = []

    def forward(self, x: Any) -> Any:
        t = (x.unsqueeze(1) - self.translation) / self.scale
        waves = (t**2 - 1) * torch.exp(-0.5 * t**2)
        ways = {
            "each": lambda: torch.cat([item(waves[:, at]) for at, item in enumerate(self.each)], dim=1),
            "apart": lambda: self.apart(waves.flatten(1, 2)),
            "deep": lambda: self.deep(waves).squeeze(2),
        }
        self.sums = [self.mix(ways[self.way]()) + self.base(functional.silu(x))]
        return self.norm(self.sums[0])


class OneGroup(modules.KANLinear):
    """efficient-kan's layer as convkan has it, with an axis of groups before all others."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__(n, m)
        for name, held in [*self.named_parameters(), *self.named_buffers()]:
            held.data = held.data[None]
            assert getattr(self, name).ndim > 2

    def forward(self, x: Any) -> Any:
        assert x.ndim == 3
        assert len(x) == len(self.grid)
        held = {name: value[0] for name, value in [*self.named_parameters(), *self.named_buffers()]}
        own: Any = SimpleNamespace(degree=self.degree, base_activation=self.base_activation, **held)
        return modules.KANLinear.forward(own, x[0])[None]


class Unfolded(nn.Module):
    """A convolution of the values under the kernel by such a layer: padding precedes the functions."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.n, self.layer = m, OneGroup(9 * n, m)

    def forward(self, x: Any) -> Any:
        patches = functional.unfold(x, 3, padding=1).transpose(1, 2)
        y = self.layer(patches.reshape(1, -1, patches.shape[2])).reshape(len(x), -1, self.n)
        return y.transpose(1, 2).reshape(len(x), self.n, *x.shape[2:])


CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "1-d, padded": (lambda: Bells(3, 4, axes=1, padding=2, dilation=2), (3, 9)),
    "2-d, padded": (lambda: Bells(3, 4, padding=1), (3, 5, 6)),
    "2-d, not padded, with strides": (lambda: Bells(3, 4, stride=2), (3, 7, 6)),
    "2-d, padded on one axis": (lambda: Bells(3, 4, padding=(0, 2), stride=(1, 2)), (3, 5, 6)),
    "2-d, same": (lambda: Bells(3, 4, padding="same", dilation=(1, 2)), (3, 5, 6)),
    "2-d, in groups": (lambda: Bells(4, 6, groups=2, padding=1), (4, 5, 6)),
    "2-d, reflected": (lambda: Bells(3, 4, padding=1, padding_mode="reflect"), (3, 5, 6)),
    "2-d, circular": (lambda: Bells(3, 4, padding=(2, 1), padding_mode="circular"), (3, 5, 6)),
    "3-d, padded": (lambda: Bells(2, 3, axes=3, padding=1), (2, 3, 4, 3)),
    "powers, padded": (lambda: Powers(3, 4, padding=1), (3, 5, 6)),
    "powers, not padded": (lambda: Powers(3, 4), (3, 5, 6)),
    "clamped far away": (lambda: Of(lambda x: torch.where(x.abs() > 50, 0.3 * x.sign(), x)), (3, 5, 6)),
    "wavelets, each": (lambda: Wavelets(3, 4, "each"), (3, 5, 6)),
    "wavelets, apart": (lambda: Wavelets(3, 4, "apart"), (3, 5, 6)),
    "wavelets, deep": (lambda: Wavelets(3, 4, "deep"), (3, 5, 6)),
}


@spread("case", CASES, 5)
def test_edges_add_up_to_what_the_convolutions_give(case: str) -> None:
    make, shape = CASES[case]
    module = make()
    whole, plan = planned(module, rows(*shape))
    for scale in (1.0, 1e3):
        x = rows(*shape, scale=scale)
        actual, expected = edge_sums(whole, plan, x), sums(module, x)
        assert actual.shape == expected.shape
        assert relative_error(actual, expected) < 1e-9


@pytest.mark.parametrize("kind", ALIKE)
def test_what_only_looks_like_one_has_no_edges(kind: str) -> None:
    _, plan = planned(Of(ALIKE[kind]), rows(3, 5, 6))
    assert not plan.layers
    assert plan.notes
    assert all("resembles a KAN convolution, but" in note or "no KAN layer" in note for note in plan.notes)


def test_pictures_that_are_too_large_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_detect, "NUMBERS", (27 + 9) * 30 - 1)
    _, plan = planned(Bells(3, 4, padding=1), rows(3, 5, 6))
    assert not plan.readings
    why = "has 1080 inputs per row, place by place, more than 1079; it has no edges"
    assert f"(itself): resembles a KAN convolution, but {why}" in plan.notes


def test_a_layer_with_one_group_of_several_is_read() -> None:
    module = Unfolded(2, 3)
    whole, plan = planned(module, rows(2, 4, 5))
    (use,) = plan.uses
    assert (use.name, use.axes, plan.readings[use.name].family) == ("body.layer", (1, -1, 20), "efficient-kan")
    x = rows(2, 4, 5, scale=2.0)
    with lent(whole, plan.oracle.dtype):
        (vectors,) = plan.evaluate(x).inputs
    expected = functional.unfold(torch.from_numpy(x), 3, padding=1).transpose(1, 2).numpy()
    np.testing.assert_array_equal(vectors, expected[:, None])
