"""Tests of `cli/columnar.py`."""

from pathlib import Path

import numpy as np
import pytest

from kanserve.cli import columnar, row_stream
from kanserve.cli.options import InputError
from kanserve.types import TensorInfo
from tests.support.documents import columns


@pytest.mark.parametrize("suffix", columnar.SUFFIXES)
@pytest.mark.parametrize("cut", [0, 40])
def test_a_damaged_table_is_explained(suffix: str, cut: int, tmp_path: Path) -> None:
    data = columns(tmp_path / f"rows{suffix}", np.zeros((5, 3), np.float32)).read_bytes()
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data[:cut])
    with row_stream.opened(str(path)) as supplied, pytest.raises(InputError, match="cannot be read as a table"):
        list(row_stream.rows([TensorInfo("x", "FP32", (-1, 3))], supplied).parts)
