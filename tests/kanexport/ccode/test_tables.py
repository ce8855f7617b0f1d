"""Tables: float constants that read back as they were, and views that share memory."""

import numpy as np

from kanexport.ccode.nodes import Index
from kanexport.ccode.tables import Tables, literal


def test_literals_read_back_and_values_that_are_not_finite_have_names() -> None:
    for value in (0.1, -3.0, 1e-30, 1.1754944e-38, 3.4028235e38, 16777216.0, 1 / 3):
        text = literal(value)
        assert text.endswith("f")
        assert any(mark in text for mark in ".e")
        assert np.float32(text[:-1]) == np.float32(value)
    assert [literal(value) for value in (np.nan, np.inf, -np.inf)] == ["NAN", "INFINITY", "-INFINITY"]


def test_views_share_one_table() -> None:
    tables, array = Tables("net"), np.arange(12, dtype=np.float32).reshape(3, 4)
    i, j = Index.of("i"), Index.of("j")
    assert tables.element(array, (i, j)) == "net_k0[4 * i + j]"
    assert tables.element(array.T, (j, i)) == "net_k0[j + 4 * i]"
    assert tables.element(array[1:], (i, Index(2))) == "net_k0[4 * i + 6]"
    assert tables.element(np.array(array), (i, j)) == "net_k0[4 * i + j]"
    (table,) = tables
    assert (table.type, table.size) == ("float", 48)
    # A small part of a large array has a table of its own, and equal elements are a literal.
    assert tables.element(np.arange(1000, dtype=np.float32)[7:10], (i,)) == "net_k1[i]"
    assert [table.values.tolist() for table in tables][1:] == [[7.0, 8.0, 9.0]]
    assert tables.element(np.full((3, 3), 0.5, dtype=np.float32), (i, j)) == "0.5f"


def test_integers_have_the_smallest_type() -> None:
    tables = Tables("net")
    for values in ([0, 255], [0, 256], [-5, 300], [0, 1 << 20]):
        tables.element(np.array(values), (Index.of("i"),))
    tables.element(np.array([True, False]), (Index.of("i"),))
    assert [table.type for table in tables] == ["unsigned char", "unsigned short", "short", "int", "unsigned char"]
