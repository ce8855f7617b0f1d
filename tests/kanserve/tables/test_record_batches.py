"""Table files as record batches: every form, and files that are damaged."""

import io
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from kanserve.errors import BadRequest
from kanserve.tables import record_batches
from kanserve.tables.errors import TableError
from kanserve.tables.record_batches import Part, Writer

ROWS = 70_000
TABLE = pa.table(
    {
        "a": np.arange(ROWS, dtype=np.float64),
        "b": np.arange(ROWS, dtype=np.float64) / 4,
        "note": [f"n{at % 7}" for at in range(ROWS)],
    }
)


def written(form: str, table: pa.Table = TABLE) -> bytes:
    target = io.BytesIO()
    with Writer(target, form, table.schema) as writer:
        for batch in table.to_batches(20_000):
            writer.write(batch)
    return target.getvalue()


def parts(data: bytes, form: str, *columns: str) -> list[Part]:
    return list(record_batches.opened(io.BytesIO(data), form).parts(columns))


@pytest.mark.parametrize("form", record_batches.FORMS)
def test_a_table_that_was_written_is_read_back(form: str) -> None:
    found = parts(written(form), form, "b", "a")
    assert all(part.batch.num_rows <= record_batches.MOST_ROWS for part in found)
    assert [part.first for part in found] == np.cumsum([0, *(part.batch.num_rows for part in found)])[:-1].tolist()
    joined = pa.Table.from_batches([part.batch for part in found])
    assert joined.schema.names == ["b", "a"]
    assert joined.equals(TABLE.select(["b", "a"]))
    source = record_batches.opened(
        io.BytesIO(written(form, TABLE.slice(0, 0))), form
    )  # without rows it keeps its columns
    assert source.schema.names == TABLE.schema.names
    assert sum(part.batch.num_rows for part in source.parts(["a"])) == 0


def test_parts_name_their_place_and_are_smaller_if_wide() -> None:
    target = io.BytesIO()
    parquet.write_table(TABLE, target, row_group_size=30_000)
    found = [(part.place, part.first) for part in parts(target.getvalue(), "parquet", "a")]
    assert found == [(f"row group {at}", at * 30_000) for at in range(3)]
    assert parts(written("arrow"), "arrow", "a")[1].place == "record batch 1"
    assert record_batches.batch_rows(2) == record_batches.MOST_ROWS
    assert record_batches.batch_rows(784) * 784 * 8 <= record_batches.BATCH_BYTES
    assert record_batches.batch_rows(10**6) == record_batches.LEAST_ROWS


def test_streams_and_feather_files_are_arrow(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, TABLE.schema) as writer:
        writer.write_table(TABLE)
    feather.write_feather(TABLE, tmp_path / "t.feather")
    for data in (stream.getvalue(), (tmp_path / "t.feather").read_bytes()):
        assert pa.Table.from_batches([part.batch for part in parts(data, "arrow", "a")]).equals(TABLE.select(["a"]))


def test_a_csv_may_have_no_header_and_any_line_ends() -> None:
    source = record_batches.opened(io.BytesIO(b"1,2\r\n3,4\r\n"), "csv")
    assert (source.names, source.schema.names) == (False, ["f0", "f1"])
    assert [part.batch.to_pylist() for part in source.parts(["f1"])] == [[{"f1": 2.0}, {"f1": 4.0}]]
    source = record_batches.opened(io.BytesIO('\ufeff"a" , b\n1,2\n'.encode()), "csv")
    assert (source.names, source.schema.names) == (True, ["a", "b"])
    for end in ("\n", "\r\n"):  # also in cells, and where pyarrow begins another block
        rows = f'1,"{"x" * (record_batches.BLOCK - 14)}{end}y"{end}3,z{end}'
        found = parts(f'"a{end}kg",b{end}{rows}'.encode(), "csv", f"a{end}kg")
        cells = [cell for part in found for cell in part.batch.column(0).to_pylist()]
        assert cells == [1.0, 3.0], repr(end)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_file_that_is_cut_or_changed_is_damaged(form: str) -> None:
    whole = written(form)
    for kept in (0, 3, 1000, -1, -100):
        with pytest.raises(TableError, match="cannot be read as a table") as caught:
            parts(whole[:kept], form, "a")
        assert caught.value.code == "table-damaged"
    data = bytearray(whole)
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    if form == "parquet":
        with pytest.raises(TableError, match="cannot be read as a table"):
            parts(bytes(data), form, *TABLE.schema.names)


def test_a_csv_that_is_no_table_is_refused() -> None:
    for text, problem in (
        (b"", "it is empty"),
        (b"a,b\n1,2\n\n3\n", "^in.csv, line 4: found 1 columns, expected 2"),
        (b"a,b\n1,2\nx,3\n", "^in.csv, line 3: column 'a': found 'x', expected a number$"),
        (b"a,b\n1,2;3\n", "found '2;3', expected a number .cells are separated by commas, not by ';'"),
        (b"a,b\n1,\xff\n", "not UTF-8 text"),
        (b"a" * 2**17 + b"a,b\n1,2\n", "^in.csv, line 1: .* field larger than field limit"),
    ):
        with pytest.raises(TableError) as caught:
            parts(text, "csv", "a", "b")
        assert re.search(problem, str(caught.value.located("in.csv"))), caught.value


def test_cells_of_a_csv_without_a_number_are_null_and_nan_is_a_number() -> None:
    (part,) = parts(b"a\nnan\n-NaN\ninf\nNA\n#N/A\nnull\n", "csv", "a")
    assert [str(value) for value in part.batch.column("a").to_pylist()] == ["nan", "nan", "inf", *["None"] * 3]


def test_the_suffix_gives_the_form() -> None:
    assert record_batches.form_of("a/b.PQ") == "parquet"
    assert record_batches.form_of("b.feather") == "arrow"
    for name in ("a.xlsx", "table", "a.parquet/b"):
        with pytest.raises(BadRequest, match="unknown file format"):
            record_batches.form_of(name)
