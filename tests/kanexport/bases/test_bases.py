"""Bases: the operators of each compute what its `evaluate` computes. File names select the bases."""

from __future__ import annotations

import numpy as np
import pytest

from kanexport import bases
from kanexport.bases import Basis
from kanexport.ir.model import BasisTerm, Layer
from tests.support.conformance import DTYPES, SOURCES, check_basis, check_layer

EXAMPLES = [(name, basis) for name in bases.names() for basis in bases.examples(name)]


def ident(value: object) -> str:
    return str(getattr(value, "kind", value))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "basis"), EXAMPLES, ids=ident)
def test_a_basis_gives_what_it_owes(name: str, basis: Basis, dtype: str) -> None:
    check_basis(basis, dtype)
    if basis.sources is None:
        for sources in (1, 17):
            check_basis(basis, dtype, sources)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", bases.names())
def test_a_layer_of_it_spreads_nan_as_it_says(name: str, dtype: str) -> None:
    """Edges and sums, with a masked edge, where NaN spreads nowhere, on one edge, everywhere."""
    rng = np.random.default_rng(0)
    shape, spreads = (SOURCES, 2), np.zeros((SOURCES, 2), dtype=bool)
    item, mask = spreads.copy(), np.ones(shape)
    item[1, 0], mask[0, 1] = True, 0
    for basis in bases.examples(name)[:4]:
        term = BasisTerm(basis, rng.normal(size=(*shape, basis.functions)))
        for nan_spreads in (spreads, item, ~spreads):
            check_layer(Layer((term,), mask=mask, bias=rng.normal(size=2), nan_spreads=nan_spreads), dtype)
