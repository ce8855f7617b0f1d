"""Tests of `shared/csv_text.py`."""

import math

import pytest

from kanexport.shared import csv_text


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("a,b\n\n1,2\n , \n3,4", [[1, 2], [3, 4]]),
        ('"x","y"\n"1"," 2 "\n', [[1, 2]]),
        ("\ufeff1;\n".replace(";", ",2"), [[1, 2]]),
        ("nan,inf\r\n-1e-3,+2\r\n", [[math.nan, math.inf], [-0.001, 2]]),
        ("7", [[7]]),
    ],
)
def test_rows_of_a_csv(text: str, rows: list[list[float]]) -> None:
    result = csv_text.parse("f.csv", csv_text.decode("f.csv", text.encode()))
    assert repr(result) == repr([[float(value) for value in row] for row in rows])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "f.csv is empty; expected rows of numbers"),
        (" \n\n,\n", "f.csv is empty"),
        ("a,b\n", "f.csv has a header line and no rows"),
        ("a,b\nc,d\n1,2\n", "f.csv, line 2, column 1: found 'c', expected a number"),
        ("a,2\n", "f.csv, line 1, column 1: found 'a'"),
        ("1,2\n3,\n", "f.csv, line 2, column 2: found ''"),
        ("1,2\n\n3\n", "f.csv, line 3: found 1 columns, but the rows before have 2"),
        ("1\n1_0\n", "line 2, column 1: found '1_0'"),
        ("1\n2;3\n", "separated by commas"),
        ("1\n" + "9" * 200_000, "line 2: field larger than field limit"),
    ],
)
def test_what_is_no_rows_is_refused_by_its_place(text: str, says: str) -> None:
    with pytest.raises(csv_text.CsvError) as caught:
        csv_text.parse("f.csv", text)
    assert says in str(caught.value)


def test_only_so_many_rows_are_read() -> None:
    assert csv_text.parse("f", "h\n1\n2\nbad\n", most=2) == [[1], [2]]
