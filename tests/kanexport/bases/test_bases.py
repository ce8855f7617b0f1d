"""Bases: the operators of each compute what its `evaluate` computes. File names select the bases."""

import numpy as np
import pytest

from kanexport.ir.model import BasisTerm, Layer
from tests.support import basis_examples
from tests.support.conformance import DTYPES, SOURCES, check_basis, check_each, check_layer
from tests.support.tiers import full


@pytest.mark.parametrize("name", basis_examples.names())
def test_a_basis_gives_what_it_owes(name: str) -> None:
    """Six of its examples; the next test has all."""
    examples = basis_examples.examples(name)
    check_each(check_basis, examples[:: max(1, len(examples) // 6)], "float32")


@full("combination")
@pytest.mark.parametrize("name", basis_examples.names())
def test_every_example_of_a_basis_gives_what_it_owes(name: str) -> None:
    examples = basis_examples.examples(name)
    free = [basis for basis in examples if basis.sources is None]
    for dtype, sources, checked in (
        ("float32", 1, free[::2]),
        ("float32", 17, free[1::2]),
        ("float32", SOURCES, [basis for basis in examples if basis.sources is not None]),
        ("float64", SOURCES, examples[::2]),
    ):
        check_each(check_basis, checked, dtype, sources)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=full("combination"))])
@pytest.mark.parametrize("name", basis_examples.names())
def test_a_layer_of_it_spreads_nan_as_it_says(name: str, dtype: str) -> None:
    """Edges and sums, with a masked edge, where NaN spreads nowhere, on one edge, everywhere."""
    rng = np.random.default_rng(0)
    shape, spreads = (SOURCES, 2), np.zeros((SOURCES, 2), dtype=bool)
    item, mask = spreads.copy(), np.ones(shape)
    item[1, 0], mask[0, 1] = True, 0
    for basis in basis_examples.examples(name)[: 1 if dtype == DTYPES[0] else 2]:
        term = BasisTerm(basis, rng.normal(size=(*shape, basis.functions)))
        for nan_spreads in (spreads, item, ~spreads):
            check_layer(Layer((term,), mask=mask, bias=rng.normal(size=2), nan_spreads=nan_spreads), dtype)
