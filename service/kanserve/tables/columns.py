"""Columns of a table as inputs of a model: by name, checked, and as rows of numbers without a copy where possible."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kanexport.shared.cli.suggest import closest
from kanexport.shared.naming import Names, listed
from kanserve.tables import record_batches
from kanserve.tables.errors import TableError
from kanserve.tables.record_batches import COPY_AGAIN, arrow, first_line, holds_numbers
from kanserve.types import DTYPES, Array, TensorInfo

EXACT = 2**53  # integers up to this one are float64 numbers
BLOCK_BYTES = 2**22  # of a block of rows
LEAST_ROWS, MOST_ROWS = 256, 2**14  # of a block
FOLDED = 1024  # numbers of a folded row, of which the smallest and the largest are found fast
CONVERT = "convert the column to numbers, or remove the file"


def validate(batch: Any, names: Sequence[str]) -> None:
    """Check that the data of the named columns is as Arrow defines it. pyarrow reads a damaged file without this check,
    and then reads outside of its memory. Raises TableError."""
    pa, wanted = arrow(), list(dict.fromkeys(names))
    try:
        (batch if batch.schema.names == wanted else batch.select(wanted)).validate(full=True)
    except pa.ArrowException as error:
        raise TableError(f"its data is damaged: {first_line(error)}", code="table-damaged", hint=COPY_AGAIN) from error


@dataclass(frozen=True, slots=True)
class Selection:
    """Columns of a table that are the inputs of a model, in the order of its features.

    columns    their names
    vectors    whether each column is an input as a whole: a list of numbers in each row
    by_name    whether names selected them; otherwise their positions did
    ignored    names of the other columns, except for those to keep
    """

    columns: tuple[str, ...]
    vectors: bool
    by_name: bool
    ignored: tuple[str, ...]


def select(schema: Any, inputs: Sequence[TensorInfo], names: Names, keep: Sequence[str]) -> Selection:
    """The columns of a table that are the `inputs`. Raises TableError.

    names  if the features have names, the columns need these names, in any order
    keep   columns that the result keeps; positions do not count them, and names may select them too
    """
    there = record_batches.feature_columns(schema)
    _require(keep, schema.names, there, "to keep")
    tensors = [tensor.name for tensor in inputs]
    if all(name in there and _is_vector(schema.field(name).type) for name in tensors):
        return _checked(schema, tensors, keep, vectors=True, by_name=True)
    features = [names.feature(at) for at in range(sum(math.prod(tensor.shape[1:]) for tensor in inputs))]
    if names.features or set(features) <= set(there):
        others = set(there) - set(features)
        _require(features, there, sorted(others), "of the model")
        return _checked(schema, features, keep, vectors=False, by_name=True)
    columns = [name for name in there if name not in keep][: len(features)]
    if len(columns) < len(features):
        raise TableError(
            f"found {len(columns)} columns, expected {len(features)}: one for each input of the model",
            code="columns-too-few",
            hint=f"write one column for each input of the model, or one column of lists named {listed(tensors)}",
        )
    return _checked(schema, columns, keep, vectors=False, by_name=False)


def _require(columns: Sequence[str], there: Sequence[str], others: Sequence[str], what: str) -> None:
    """Raises TableError for a column that is not there, with the nearest of the `others`."""
    missing = [name for name in columns if name not in there]
    if not missing:
        return
    near = closest(missing[0], others)
    raise TableError(
        f"missing column {listed(missing)} {what}" + (f", found {near!r}" if near else ""),
        code="column-missing",
        hint="rename the columns of the table" + (f", such as {near!r} to {missing[0]!r}" if near else ""),
        column=missing[0],
    )


def _checked(schema: Any, columns: Sequence[str], keep: Sequence[str], *, vectors: bool, by_name: bool) -> Selection:
    """Raises TableError for a column that occurs twice or holds no numbers."""
    counts = Counter(schema.names)
    for name in (*columns, *keep):
        if counts[name] > 1:
            raise TableError(
                f"the column {name!r} occurs {counts[name]} times",
                code="column-repeated",
                hint="remove or rename the other columns of this name",
                column=name,
            )
    for name in columns:
        kind = schema.field(name).type
        if not holds_numbers(kind.value_type if vectors else kind):
            raise TableError(
                f"column {name!r} has values of type {kind}, expected numbers",
                code="column-not-numbers",
                hint="cast the column to float64" if "decimal" in str(kind) else CONVERT,
                column=name,
            )
    used = {*columns, *keep}
    ignored = tuple(name for name in record_batches.feature_columns(schema) if name not in used)
    return Selection(tuple(columns), vectors, by_name, ignored)


def _is_vector(kind: Any) -> bool:
    types = arrow().types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows as inputs of a model.

    feeds      rows [B, ...] by input
    start      position of the first row in the batch
    low, high  smallest and largest value of each number of an input [n]; empty for inputs of integers
    """

    feeds: Mapping[str, Array]
    start: int
    low: Mapping[str, Array]
    high: Mapping[str, Array]

    @property
    def finite(self) -> bool:
        """Whether all numbers are finite."""
        ends = (*self.low.values(), *self.high.values())
        return all(bool(np.isfinite(values).all()) for values in ends)


class Reader:
    """Reader of the batches of one table, which have one schema. Several threads may use it."""

    def __init__(self, schema: Any, selection: Selection, inputs: Sequence[TensorInfo]) -> None:
        """`schema`: the pyarrow schema of the batches. Raises TableError for inputs that are not numbers."""
        for tensor in inputs:
            if tensor.datatype not in DTYPES or DTYPES[tensor.datatype].kind not in "fiub":
                raise TableError(
                    f"input {tensor.name!r} of the model has the type {tensor.datatype}, expected numbers",
                    code="input-not-numbers",
                    hint="use a model whose inputs are numbers",
                )
        self.selection, self._inputs = selection, tuple(inputs)
        # Whether all columns have the type of the only input, so that no column needs a look by itself.
        self._direct = False
        if not selection.vectors and len(inputs) == 1:
            kind = DTYPES[inputs[0].datatype]
            wanted = arrow().from_numpy_dtype(kind)
            self._direct = kind.kind == "f" and all(schema.field(name).type == wanted for name in selection.columns)
        width = sum(math.prod(tensor.shape[1:]) * DTYPES[tensor.datatype].itemsize for tensor in inputs)
        self.rows = min(MOST_ROWS, max(LEAST_ROWS, BLOCK_BYTES // max(1, width)))

    def blocks(self, batch: Any) -> Iterator[Block]:
        """The rows of a record batch, in blocks. Raises TableError."""
        # A function from the first row and the number of rows to the array, for each input.
        casted: list[tuple[str, Any]] = []
        names, first = list(self.selection.columns), 0
        if self._direct:  # without a look at the columns: pyarrow raises its own error for a null
            (tensor,) = self._inputs
            own = batch if batch.schema.names == names else batch.select(names)
            casted.append((tensor.name, functools.partial(_joined, own, tensor.shape[1:])))
        else:
            columns = self._columns(batch)
            for tensor in self._inputs:
                end = first + (1 if self.selection.vectors else math.prod(tensor.shape[1:]))
                make = _vector if self.selection.vectors else _scalars
                casted.append((tensor.name, make(names[first:end], columns[first:end], tensor)))
                first = end
        for start in range(0, batch.num_rows, self.rows):
            rows = min(self.rows, batch.num_rows - start)
            try:
                feeds = {name: make(start, rows) for name, make in casted}
            except arrow().ArrowException:
                self._columns(batch)  # it names the column of the null
                raise
            ends = {name: _ends(array) for name, array in feeds.items() if array.dtype.kind == "f"}
            low, high = ({name: pair[at] for name, pair in ends.items()} for at in (0, 1))
            yield Block(feeds, start, low, high)

    def _columns(self, batch: Any) -> list[Any]:
        """The selected columns, without nulls. Raises TableError."""
        return [_column(name, batch.column(name)) for name in self.selection.columns]

    def not_finite(self, batch: Any, block: Block) -> TableError:
        """The error for the first number of a block that is not finite."""
        first = 0  # column of the input
        for name, array in block.feeds.items():
            flat = array.reshape(len(array), -1)
            bad = np.argwhere(~np.isfinite(flat))
            if array.dtype.kind == "f" and len(bad):
                row, at = map(int, bad[0])
                column = name if self.selection.vectors else self.selection.columns[first + at]
                value = batch.column(column)[block.start + row].as_py()
                value = value[at] if self.selection.vectors else value
                kept = isinstance(value, (int, float)) and math.isfinite(value)
                reason = f", beyond the range of {array.dtype}" if kept else ""
                return TableError(
                    f"column {column!r}: found {value}{reason}, expected a finite number",
                    code="value-not-finite",
                    hint="correct or remove these rows, or pass --non-finite pass to score them as they are",
                    column=column,
                    row=block.start + row,
                )
            first += flat.shape[1]
        raise AssertionError("the block is finite")


def _column(name: str, values: Any) -> Any:
    """A column without nulls. Raises TableError."""
    pa = arrow()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    inner = values.flatten() if _is_vector(values.type) else values
    for part in (values, inner):
        if part.null_count:
            row = int(np.argmax(part.is_null().to_numpy(zero_copy_only=False)))
            raise TableError(
                f"column {name!r}: found no value (null), expected a number",
                code="value-missing",
                hint="fill in the missing values, or remove these rows",
                column=name,
                row=row if part is values else row * len(values) // max(1, len(inner)),
            )
    if pa.types.is_int64(inner.type) or pa.types.is_uint64(inner.type):
        # An integer that float64 cannot hold exactly is an id rather than a quantity.
        numbers = inner.to_numpy()
        if len(numbers) and (int(numbers.max()) > EXACT or int(numbers.min()) < -EXACT):
            beyond = numbers > EXACT if int(numbers.max()) > EXACT else numbers < -EXACT
            at = int(np.argmax(beyond))
            raise TableError(
                f"column {name!r}: found {int(numbers[at])}, expected an integer between -2^53 and 2^53",
                code="value-not-exact",
                hint="remove the column if it is an id, or cast it to float64 if rounding is allowed",
                column=name,
                row=at,
            )
    return values


def _scalars(names: Sequence[str], columns: Sequence[Any], tensor: TensorInfo) -> Any:
    """One column for each number of an input."""
    pa, dtype = arrow(), DTYPES[tensor.datatype]
    kind = pa.from_numpy_dtype(dtype)
    parts = [_as(name, column, kind) for name, column in zip(names, columns, strict=True)]
    if dtype.kind == "b":
        return functools.partial(_stacked, parts, tensor.shape[1:])
    batch = pa.record_batch(parts, names=[str(at) for at in range(len(parts))])
    return functools.partial(_joined, batch, tensor.shape[1:])


def _as(name: str, column: Any, kind: Any) -> Any:
    """A column in the type of an input. Floats are rounded to it; integers must fit. Raises TableError."""
    pa = arrow()
    if column.type == kind:
        return column
    try:
        if pa.types.is_boolean(column.type) and not pa.types.is_boolean(kind):
            column = column.cast(pa.uint8())
        return column.cast(kind, safe=not pa.types.is_floating(kind))
    except pa.ArrowException as error:
        raise TableError(
            f"column {name!r}: {first_line(error)}",
            code="value-not-convertible",
            hint=f"write values that fit the type {kind} of the model's input",
            column=name,
        ) from error


def _joined(batch: Any, shape: tuple[int, ...], start: int, rows: int) -> Array:
    """The rows of columns of one type, [rows, *shape]."""
    part = np.asarray(batch.slice(start, rows).to_tensor(row_major=True))
    return np.ascontiguousarray(part).reshape(rows, *shape)


def _stacked(parts: Sequence[Any], shape: tuple[int, ...], start: int, rows: int) -> Array:
    columns = [part.slice(start, rows).to_numpy(zero_copy_only=False) for part in parts]
    return np.stack(columns, axis=1).reshape(rows, *shape)


def _vector(names: Sequence[str], columns: Sequence[Any], tensor: TensorInfo) -> Any:
    """One column of lists for an input: without a copy if the type fits. Raises TableError."""
    pa = arrow()
    (name,), (column,) = names, columns
    width = math.prod(tensor.shape[1:])
    if not pa.types.is_fixed_size_list(column.type) or column.type.list_size != width:
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        if (wrong := np.flatnonzero(lengths != width)).size:
            raise TableError(
                f"column {name!r}: found a list of {int(lengths[wrong[0]])} numbers, expected {width}",
                code="list-length-differs",
                hint="write one number for each input of the model",
                column=name,
                row=int(wrong[0]),
            )
    values = _as(name, column.flatten(), pa.from_numpy_dtype(DTYPES[tensor.datatype]))
    array = values.to_numpy(zero_copy_only=False).reshape(-1, *tensor.shape[1:])
    return lambda start, rows: array[start : start + rows]


def _ends(array: Array) -> tuple[Array, Array]:
    """The smallest and the largest value of each number of the rows; NaN if one is NaN. Narrow rows are folded, because
    numpy is slow on them."""
    flat = array.reshape(len(array), -1)
    width = max(1, flat.shape[1])
    fold = max(1, FOLDED // width)
    whole = len(flat) // fold * fold
    with np.errstate(invalid="ignore"):
        parts = [flat[whole:]] if whole < len(flat) else []
        if whole:
            folded = np.ascontiguousarray(flat[:whole]).reshape(whole // fold, fold * width)
            lows, highs = folded.min(axis=0).reshape(fold, width), folded.max(axis=0).reshape(fold, width)
            parts += [lows, highs]
        rows = np.concatenate(parts)
        return rows.min(axis=0), rows.max(axis=0)
