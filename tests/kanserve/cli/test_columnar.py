"""Tests of `cli/columnar.py`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from kanexport.contract import csv_columns, csv_text
from kanserve.cli import columnar, row_stream
from kanserve.cli.options import InputError
from kanserve.types import TensorInfo

RNG = np.random.default_rng(7)


ROWS = RNG.uniform(-2, 2, (5, 3)).astype(np.float32)


X = TensorInfo("x", "FP32", (-1, 3))


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


def read(text: bytes, part: int, parser: Any) -> str:
    with mock.patch.object(csv_columns, "_parser", return_value=parser):
        try:
            table = csv_columns.Table("f", io.BytesIO(text), part=part)
            return repr(np.concatenate(list(table.rows())).tolist())
        except csv_text.CsvError as error:
            return str(error)


@pytest.mark.parametrize("suffix", columnar.SUFFIXES)
@pytest.mark.parametrize("cut", [0, 40])
def test_a_damaged_table_is_explained(suffix: str, cut: int, tmp_path: Path) -> None:
    data = columns(tmp_path / f"rows{suffix}", ROWS).read_bytes()
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data[:cut])
    with (
        row_stream.opened(str(path)) as supplied,
        pytest.raises(InputError, match="cannot be read as a table of numbers"),
    ):
        list(row_stream.rows([X], supplied).parts)
