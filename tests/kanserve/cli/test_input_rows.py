"""Tests of `cli/input_rows.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanserve.cli import input_rows
from kanserve.types import TensorInfo


def csv_of(path: Path, rows: np.ndarray, header: str = "") -> Path:
    with path.open("w") as file:
        np.savetxt(file, rows, fmt="%.9g", delimiter=",", header=header, comments="")
    return path


def columns(path: Path, rows: Any, names: str = "abc") -> Path:
    """The rows in the form of the suffix; ".arrows" writes Arrow's stream to a file .arrow."""
    pa = pytest.importorskip("pyarrow")
    parquet, feather = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow.feather")
    table = pa.table({name: rows[:, at] for at, name in enumerate(names)})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=1000)
    elif path.suffix == ".feather":
        feather.write_feather(table, path, compression="zstd", chunksize=1000)
    else:
        make = pa.ipc.new_stream if path.stem == "stream" else pa.ipc.new_file
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=1000)
    return path


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
