"""Columns of a table as inputs of a model, and the errors for values that no model takes."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kanexport.shared.naming import UNNAMED, Names
from kanserve.tables import columns
from kanserve.tables.columns import Reader, Selection
from kanserve.tables.errors import TableError
from kanserve.types import TensorInfo

THREE = (TensorInfo("x", "FP32", (-1, 3)),)
NAMED = Names(features=("age", "height", "weight"))
KINDS = (pa.float32(), pa.float64(), pa.float16(), pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64())


def select(schema: pa.Schema, names: Names = NAMED, *keep: str) -> Selection:
    return columns.select(schema, THREE, names, keep)


def schema(*names: str) -> pa.Schema:
    return pa.schema([(name, pa.float32()) for name in names])


def feeds(batch: pa.RecordBatch, inputs: tuple[TensorInfo, ...] = THREE, names: Names = UNNAMED) -> dict[str, Any]:
    reader = Reader(batch.schema, columns.select(batch.schema, inputs, names, ()), inputs)
    blocks = list(reader.blocks(batch))
    assert [block.start for block in blocks] == list(range(0, batch.num_rows, reader.rows))
    return {name: np.concatenate([block.feeds[name] for block in blocks]) for name in blocks[0].feeds}


def error(batch: pa.RecordBatch, inputs: tuple[TensorInfo, ...] = THREE) -> TableError:
    with pytest.raises(TableError) as caught:
        feeds(batch, inputs)
    assert caught.value.code
    assert caught.value.hint
    return caught.value


def test_names_select_columns_in_any_order_and_without_names_the_first_are_taken() -> None:
    found = select(schema("id", "weight", "age", "note", "height"), NAMED, "id")
    assert found == Selection(("age", "height", "weight"), False, True, ("note",))
    assert select(schema("x2", "x0", "x1"), UNNAMED) == Selection(("x0", "x1", "x2"), False, True, ())
    found = select(schema("id", "a", "b", "c", "d", "__index_level_0__"), UNNAMED, "id")
    assert found == Selection(("a", "b", "c"), False, False, ("d",))


def test_a_missing_or_a_repeated_column_is_named() -> None:
    with pytest.raises(TableError, match=r"missing column 'height' of the model, found 'heigth'") as caught:
        select(schema("age", "heigth", "weight"))
    assert "'heigth' to 'height'" in caught.value.hint
    with pytest.raises(TableError, match=r"missing column 'key' to keep"):
        select(schema("age", "height", "weight"), NAMED, "key")
    with pytest.raises(TableError, match="found 2 columns, expected 3"):
        select(schema("a", "b"), UNNAMED)
    with pytest.raises(TableError, match="'age' occurs 2 times"):
        select(schema("age", "height", "weight", "age"))
    assert select(schema("age", "height", "weight", "note", "note")).ignored == ("note", "note")


def test_columns_that_hold_no_numbers_are_refused_with_their_type() -> None:
    texts = pa.dictionary(pa.int8(), pa.string())
    for kind in (pa.string(), pa.decimal128(10, 2), pa.timestamp("s"), texts, pa.binary()):
        with pytest.raises(TableError, match=r"column 'height' has values of type .*, expected numbers") as caught:
            select(schema("age", "weight").append(pa.field("height", kind)))
        assert caught.value.column == "height"
        assert ("cast" in caught.value.hint) == ("decimal" in str(kind))
    with pytest.raises(TableError, match="type BYTES"):
        Reader(schema("a"), Selection(("a",), False, True, ()), (TensorInfo("x", "BYTES", (-1, 1)),))


def test_numbers_of_every_type_become_the_type_of_the_input() -> None:
    values = np.arange(4)
    for kind in KINDS:
        batch = pa.record_batch([pa.array(values).cast(kind)] * 2 + [pa.array(values % 2 == 1)], names=["a", "b", "c"])
        rows = feeds(batch)["x"]
        assert rows.dtype == np.float32
        assert rows.tolist() == np.stack([values, values, values % 2], axis=1).tolist()
    coded = pa.array([1.5, 2.5, 1.5]).dictionary_encode()
    assert feeds(pa.record_batch([coded] * 3, names=list("abc")))["x"].tolist() == [[v] * 3 for v in (1.5, 2.5, 1.5)]


def test_a_column_of_lists_is_read_without_a_copy_if_its_lengths_fit() -> None:
    values = np.arange(12, dtype=np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(values), 3)
    lists = pa.array(values.reshape(4, 3).tolist(), pa.list_(pa.float64()))
    for column in (fixed, lists):
        batch = pa.record_batch([column, pa.array([0] * 4)], names=["x", "id"])
        assert feeds(batch)["x"].tolist() == values.reshape(4, 3).tolist()
        assert feeds(batch.slice(1, 2))["x"].tolist() == values.reshape(4, 3)[1:3].tolist()
    batch = pa.record_batch([fixed], names=["x"])
    block = next(Reader(batch.schema, select(batch.schema, UNNAMED), THREE).blocks(batch))
    assert np.shares_memory(block.feeds["x"], fixed.values.to_numpy())
    found = error(pa.record_batch([pa.array([[1.0, 2, 3], [1.0, 2]])], names=["x"]))
    assert str(found) == "column 'x': found a list of 2 numbers, expected 3"
    assert found.row == 1


def test_several_inputs_of_other_types_take_consecutive_columns() -> None:
    inputs = (TensorInfo("a", "FP64", (-1, 2, 1)), TensorInfo("b", "INT64", (-1, 1)))
    batch = pa.record_batch([pa.array([1.5, 2]), pa.array([3.0, 4]), pa.array([5.0, 6])], names=list("xyz"))
    found = feeds(batch, inputs)
    assert found["a"].tolist() == [[[1.5], [3.0]], [[2.0], [4.0]]]
    assert found["b"].dtype == np.int64
    assert found["b"].tolist() == [[5], [6]]
    batch = pa.record_batch([pa.array([1.0]), pa.array([1.0]), pa.array([5.5])], names=list("xyz"))
    assert "column 'z': Float value 5.5" in str(error(batch, inputs))


def test_a_null_is_named_with_its_row_and_column() -> None:
    rows = 20_000
    for kind in (pa.float32(), pa.float64(), pa.int64()):
        some = pa.array([None if at == 17_001 else 1 for at in range(rows)], kind)
        found = error(pa.record_batch([pa.array([0] * rows, kind), some, some], names=list("abc")))
        assert (found.column, found.row) == ("b", 17_001)
        assert "found no value (null)" in str(found)
        assert str(found.located("f.parquet, row group 2", 10)) == f"f.parquet, row group 2, row 17011: {found}"


def test_integers_beyond_the_exact_ones_are_refused() -> None:
    for wrong in (2**53 + 1, -(2**60)):
        column = pa.array([2**53, wrong])
        found = error(pa.record_batch([column] * 3, names=list("abc")))
        assert (found.code, found.row) == ("value-not-exact", 1)
        assert str(wrong) in str(found)
    assert error(pa.record_batch([pa.array([2**64 - 1], pa.uint64())] * 3, names=list("abc"))).row == 0


def test_numbers_that_are_not_finite_are_found() -> None:
    for value, reason in ((np.nan, "nan"), (np.inf, "inf"), (1e300, "1e+300, beyond the range of float32")):
        columns_ = [pa.array([0.0] * 1000), pa.array([0.0] * 998 + [value, 0]), pa.array([0.0] * 1000)]
        batch = pa.record_batch(columns_, names=list("abc"))
        reader = Reader(batch.schema, select(batch.schema, UNNAMED), THREE)
        last = [block for block in reader.blocks(batch) if not block.finite]
        assert len(last) == 1
        found = reader.not_finite(batch, last[0])
        assert str(found) == f"column 'b': found {reason}, expected a finite number"
        assert found.row == 998


def test_the_smallest_and_largest_value_of_each_input_are_exact() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 3, 700, 2000):
        for rows in (1, 5, 1000, 3001):
            array = rng.normal(size=(rows, width)).astype(np.float32)
            low, high = columns._ends(array)
            assert low.tolist() == array.min(axis=0).tolist()
            assert high.tolist() == array.max(axis=0).tolist()
