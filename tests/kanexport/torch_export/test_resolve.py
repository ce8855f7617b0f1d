"""Modules with ambiguous layers: the layer's outputs decide its interpretation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.support.torch_exports import draw, families, plan


class Polynomials(nn.Module):
    """sum over sources and degrees of coefficients times polynomials of `squash`(x)."""

    def __init__(self, key: str, squash: Any, step: Any, n: int = 4, m: int = 3, degree: int = 4) -> None:
        super().__init__()
        self.key, self.squash, self.step, self.degree = key, squash, step, degree
        self.register_parameter(key, nn.Parameter(torch.randn(n, m, degree + 1)))

    def forward(self, x: Any) -> Any:
        u = self.squash(x)
        chain = [torch.ones_like(u), u]
        for n in range(2, self.degree + 1):
            chain.append(self.step(n, u, chain[-1], chain[-2]))
        return torch.einsum("bid,iod->bo", torch.stack(chain, dim=-1), getattr(self, self.key))


class Laguerre(Polynomials):
    """With alpha as an attribute."""

    def __init__(self) -> None:
        super().__init__("laguerre_coeffs", torch.tanh, None)
        self.alpha = -0.5

    def forward(self, x: Any) -> Any:
        u, a = torch.tanh(x), self.alpha
        chain = [torch.ones_like(u), 1 + a - u]
        for n in range(2, self.degree + 1):
            chain.append(((2 * n - 1 + a - u) * chain[-1] - (n - 1 + a) * chain[-2]) / n)
        return torch.einsum("bid,iod->bo", torch.stack(chain, dim=-1), self.laguerre_coeffs)


class Steps(nn.Module):
    """A Fourier series with angles of 2 pi."""

    def __init__(self) -> None:
        super().__init__()
        self.fouriercoeffs = nn.Parameter(torch.randn(2, 3, 4, 5))

    def forward(self, x: Any) -> Any:
        angles = 2 * torch.pi * torch.arange(1, 6) * x[:, None, :, None]
        waves = torch.stack([torch.cos(angles), torch.sin(angles)])
        return (waves * self.fouriercoeffs[:, None]).sum(dim=(0, 3, 4))


def chebyshev(n: int, u: Any, last: Any, before: Any) -> Any:
    return 2 * u * last - before


def boubaker(n: int, u: Any, last: Any, before: Any) -> Any:
    return (2 * n - 1) * u * last - (n - 1) * before


CASES = {
    "chebykan": (lambda: Polynomials("cheby_coeffs", torch.tanh, chebyshev), "chebykan", ""),
    "timekan": (
        lambda: Polynomials("cheby_coeffs", lambda x: torch.tanh(torch.tanh(x)), chebyshev),
        "chebykan",
        "with forward=timekan",
    ),
    "polynomials of x": (lambda: Polynomials("cheby_coeffs", lambda x: x, chebyshev), "chebykan", "with forward=raw"),
    "boubaker": (lambda: Polynomials("boubaker_coeffs", torch.sigmoid, boubaker), "boubakerkan", ""),
    "laguerre": (Laguerre, "laguerrekan", ""),
    "2 pi": (Steps, "fourierkan", "with fourier_step=6.283185307179586"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_forward_that_fits_is_taken(case: str) -> None:
    make, family, how = CASES[case]
    torch.manual_seed(0)
    result = plan(nn.Sequential(make()), draw(4))
    assert [(reading.family, reading.how) for reading in result.readings.values()] == [(family, how)]
    assert not result.notes or how


def test_what_no_copy_computes_is_known_by_its_answers_alone() -> None:
    result = plan(nn.Sequential(Polynomials("cheby_coeffs", torch.sin, chebyshev)), draw(4))
    assert families(result) == {"0": "sampled"}
    assert "resembles a layer of chebykan, but differs" in result.notes[0]
