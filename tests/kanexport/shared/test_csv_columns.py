"""Tests of `shared/csv_columns.py`."""

import io
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.shared import csv_columns, csv_text

RNG = np.random.default_rng(7)
PARSERS = ["pyarrow", "numpy"]
CELLS = ["1", "2.5", "-3e-2", "+4", "nan", "inf", " 1 ", '"1"', '"1\n"', "1e400", "1e-400"]
OTHERS = ["", '""', "a", "nan(5)", "1_0", '"x"', ";", "NULL", "true", "0x10", "é", ","]
LINES = st.lists(st.lists(st.sampled_from(CELLS), min_size=2, max_size=2).map(",".join), max_size=8)
ODD = st.lists(st.lists(st.sampled_from([*CELLS, *OTHERS]), min_size=1, max_size=3).map(",".join), max_size=3)


def parsed(text: bytes) -> str:
    try:
        return repr(np.array(csv_text.parse("f", csv_text.decode("f", text))).tolist())
    except csv_text.CsvError as error:
        return str(error)


def read(text: bytes, part: int, parser: Any) -> str:
    with mock.patch.object(csv_columns, "_parser", return_value=parser):
        try:
            table = csv_columns.Table("f", io.BytesIO(text), part=part)
            return repr(np.concatenate(list(table.rows())).tolist())
        except csv_text.CsvError as error:
            return str(error)


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=settings.default.max_examples // 5)
@given(st.sampled_from(["", "a,b", "\ufeffa,b"]), LINES, ODD, LINES, st.sampled_from(["\n", "\r\n", "\r"]))
def test_parts_of_a_csv_are_what_the_whole_is(
    parser: str, header: str, above: list[str], odd: list[str], below: list[str], end: str
) -> None:
    pytest.importorskip(parser)
    fast = getattr(csv_columns, f"_by_{parser}")
    text = end.join([*filter(None, [header]), *above, *odd, *below]).encode()
    expected = parsed(text)
    for part in (1, 7, 2**20):
        assert read(text, part, fast) == expected
    with mock.patch.object(csv_columns, "LARGE", 0):
        assert read(text, 2**20, fast) == expected


@pytest.mark.parametrize("parser", PARSERS)
def test_the_parsers_of_large_files_round_as_python_does(parser: str) -> None:
    pytest.importorskip(parser)
    bits = RNG.integers(0, 2**64, 3000, dtype=np.uint64).view(np.float64)
    texts = [repr(float(value)) for value in bits[np.isfinite(bits)]][:2000]
    texts += ["0.1000000000000000055511151231257827", "9007199254740993", "5e-324", "2.4703282292062328e-324"] * 2
    result = getattr(csv_columns, f"_by_{parser}")(("\n".join(texts) + "\n").encode(), 1)
    np.testing.assert_array_equal(result[:, 0], [float(text) for text in texts])


def test_what_is_no_text_is_told_with_its_place_in_the_file() -> None:
    text = b"a,b\n" + b"1,2\n" * 300 + b"\xff,2\n"
    for part in (64, 2**20):
        with pytest.raises(csv_text.CsvError, match=r"f is not UTF-8 text \(byte 1204\)"):
            list(csv_columns.Table("f", io.BytesIO(text), part=part).rows())
