"""Files with columns of numbers, as Parquet, Arrow and CSV, for tests of commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


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
