"""Modules with ambiguous layers: the layer's outputs decide its interpretation."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.support.torch_modules import Composed, draw, families, plan


def polynomials(key: str, squash: Any, step: Any, first: Any = lambda u: u, **more: Any) -> Composed:
    """The sum over sources and degrees of coefficients times polynomials of `squash`(x), by their recursion."""

    def forward(module: Any, x: Any) -> Any:
        u = squash(x)
        chain = [torch.ones_like(u), first(u)]
        for n in range(2, 5):
            chain.append(step(n, u, chain[-1], chain[-2]))
        return torch.einsum("bid,iod->bo", torch.stack(chain, dim=-1), getattr(module, key))

    return Composed(forward, **{key: nn.Parameter(torch.randn(4, 3, 5))}, **more)


def chebyshev(n: int, u: Any, last: Any, before: Any) -> Any:
    return 2 * u * last - before


def boubaker(n: int, u: Any, last: Any, before: Any) -> Any:
    return (2 * n - 1) * u * last - (n - 1) * before


ALPHA = -0.5


def laguerre(n: int, u: Any, last: Any, before: Any) -> Any:
    return ((2 * n - 1 + ALPHA - u) * last - (n - 1 + ALPHA) * before) / n


def fourier(module: Any, x: Any) -> Any:
    """A series with angles of 2 pi."""
    angles = 2 * torch.pi * torch.arange(1, 6) * x[:, None, :, None]
    waves = torch.stack([torch.cos(angles), torch.sin(angles)])
    return (waves * module.fouriercoeffs[:, None]).sum(dim=(0, 3, 4))


CASES = {
    "chebykan": (lambda: polynomials("cheby_coeffs", torch.tanh, chebyshev), "chebykan", ""),
    "timekan": (
        lambda: polynomials("cheby_coeffs", lambda x: torch.tanh(torch.tanh(x)), chebyshev),
        "chebykan",
        "with forward=timekan",
    ),
    "polynomials of x": (lambda: polynomials("cheby_coeffs", lambda x: x, chebyshev), "chebykan", "with forward=raw"),
    "boubaker": (lambda: polynomials("boubaker_coeffs", torch.sigmoid, boubaker), "boubakerkan", ""),
    "laguerre": (
        lambda: polynomials("laguerre_coeffs", torch.tanh, laguerre, lambda u: 1 + ALPHA - u, alpha=ALPHA),
        "laguerrekan",
        "",
    ),
    "2 pi": (
        lambda: Composed(fourier, fouriercoeffs=nn.Parameter(torch.randn(2, 3, 4, 5))),
        "fourierkan",
        "with fourier_step=6.283185307179586",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_forward_that_fits_is_taken(case: str) -> None:
    make, family, how = CASES[case]
    result = plan(nn.Sequential(make()), draw(4))
    assert [(reading.family, reading.how) for reading in result.readings.values()] == [(family, how)]
    assert not result.notes or how


def test_what_no_copy_computes_is_known_by_its_answers_alone() -> None:
    result = plan(nn.Sequential(polynomials("cheby_coeffs", torch.sin, chebyshev)), draw(4))
    assert families(result) == {"0": "sampled"}
    assert "resembles a layer of chebykan, but differs" in result.notes[0]
