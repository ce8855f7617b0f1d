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
from tests.support.row_files import columns

RNG = np.random.default_rng(7)


ROWS = RNG.uniform(-2, 2, (5, 3)).astype(np.float32)


X = TensorInfo("x", "FP32", (-1, 3))


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
        pytest.raises(InputError, match="cannot be read as a table"),
    ):
        list(row_stream.rows([X], supplied).parts)
