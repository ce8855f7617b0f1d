"""Tests of `tables/input_rows.py`."""

from pathlib import Path

import numpy as np
import pytest

from kanserve.cli.options import InputError
from kanserve.tables import input_rows, row_stream
from kanserve.types import TensorInfo
from tests.support.documents import columns, csv_of


def test_a_model_of_doubles_and_of_whole_numbers_gets_them_exactly(tmp_path: Path) -> None:
    exact = np.array([[2**53 + 1, -3, 7]], np.int64)
    path = columns(tmp_path / "rows.parquet", exact)
    assert (
        input_rows.rows_for(TensorInfo("x", "INT64", (-1, 3)), input_rows.contents(str(path))).tolist()
        == exact.tolist()
    )
    path = csv_of(tmp_path / "rows.csv", np.zeros((1, 3)))
    path.write_text("0.1,0.2,0.3\n")
    result = input_rows.rows_for(TensorInfo("x", "FP64", (-1, 3)), input_rows.contents(str(path)))
    assert result.tolist() == [[0.1, 0.2, 0.3]]


@pytest.mark.parametrize("suffix", input_rows.TABLES)
@pytest.mark.parametrize("cut", [0, 40])
def test_a_damaged_table_is_explained(suffix: str, cut: int, tmp_path: Path) -> None:
    data = columns(tmp_path / f"rows{suffix}", np.zeros((5, 3), np.float32)).read_bytes()
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data[:cut])
    with row_stream.opened(str(path)) as supplied, pytest.raises(InputError, match="cannot be read as a table"):
        list(row_stream.rows([TensorInfo("x", "FP32", (-1, 3))], supplied).parts)
