"""Tests of `readers/common/order.py`; test_chain.py has the names and widths of modules."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kanexport.options import KnownFacts, Options
from kanexport.readers.common import order
from kanexport.readers.common.order import OtherModule


@given(st.lists(st.tuples(st.integers(2, 4), st.booleans()), min_size=2, max_size=6))
def test_a_sequential_comes_back_as_it_was(nodes: list[tuple[int, bool]]) -> None:
    """`nodes`: the widths, and whether a norm follows the layer before them."""
    layers, others, at = {}, [], 0
    for (n, normed), (m, _) in itertools.pairwise([*nodes, nodes[-1]]):
        if normed:
            others.append(OtherModule(f"{at}.", "layernorm", n))
        at += normed
        layers[f"{at}."] = (n, m)
        at += 1
    assert order.arrange(layers, others[::-1], Options(KnownFacts())) == [f"{number}." for number in range(at)]
