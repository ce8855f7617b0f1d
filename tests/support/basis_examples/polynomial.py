"""Examples of `kanexport/bases/polynomial.py`."""

import numpy as np

from kanexport.bases import Basis
from kanexport.bases.polynomial import (
    bessel,
    chebyshev,
    chebyshev2,
    fibonacci,
    gegenbauer,
    gram,
    hermite,
    hermite_prob,
    jacobi,
    jacobi_ikan,
    jacobi_orthogpoly,
    laguerre,
    legendre,
    lucas,
    powers,
    squashed,
)
from kanexport.functions import elementwise
from kanexport.functions.domain_maps import Bounded, Clip, Range, Raw, Squash, Tanh, TanhOf


def examples() -> list[Basis]:
    """Every family in five degrees, for the conformance test."""
    rng = np.random.default_rng(0)
    instances: list[Basis] = []
    for degree in (0, 1, 2, 5, 12):
        instances += [chebyshev(degree), legendre(degree), chebyshev2(degree), hermite(degree), bessel(degree)]
        instances += [powers(degree), fibonacci(degree), lucas(degree), laguerre(degree, 1.5), gegenbauer(degree, 0.75)]
        instances += [jacobi(degree, 1, 1), jacobi(degree, 0.5, 2), jacobi_orthogpoly(degree, 2, 1)]
        instances += [jacobi_ikan(degree, 0.5, 1, ahead=degree % 2)]
        instances += [gram(rng.normal(size=degree + 1) / 20, elementwise.activation("silu"))]
        instances += [make(degree, Range(-1.5, 4)) for make in (chebyshev, legendre)]
    squashes: tuple[Squash, ...] = (
        *(Tanh(short=1e-3), Tanh(slope=0.5, shift=0.1), TanhOf(Tanh()), TanhOf(Clip()), Clip(), Raw()),
        *(
            Clip(short=1e-3),
            Bounded(elementwise.SHAPES["softsign"]),
            Bounded(elementwise.SYMBOLIC["arctan"], 2 / np.pi),
        ),
    )
    return [
        *instances,
        *(squashed(chebyshev(5), squash) for squash in squashes),
        squashed(hermite(2), Raw()),
        squashed(hermite_prob(4), Raw()),
        squashed(lucas(0), Raw()),
        squashed(fibonacci(3), Raw()),
    ]
