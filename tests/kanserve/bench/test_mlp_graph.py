"""Tests of `bench/mlp_graph.py`."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kanserve.bench import entrants

widths = st.integers(1, 40)


@given(widths, widths, st.integers(1, 4), st.integers(1, 5000))
def test_no_other_width_is_nearer(sources: int, destinations: int, layers: int, wanted: int) -> None:
    result = entrants.mlp_widths(sources, destinations, layers, wanted)
    assert len(result) == max(1, layers - 1) + 2
    assert (result[0], result[-1]) == (sources, destinations)
    assert len(set(result[1:-1])) == 1

    widths_of_all = np.arange(1, 5002)
    parameters = entrants.mlp_parameters((sources, *[widths_of_all] * (len(result) - 2), destinations))
    off = np.abs(parameters - wanted)
    assert off[result[1] - 1] == off.min()


@given(st.lists(widths, min_size=2, max_size=5))
def test_parameters_of_an_mlp(actual: list[int]) -> None:
    assert entrants.mlp_parameters(actual) == sum(np.zeros((n, m)).size + m for n, m in itertools.pairwise(actual))
