"""Scorer of record batches: the outputs of a model as columns, without a server."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.shared.cli.suggest import advice
from kanexport.shared.sections import FLAG, REJECT
from kanserve.errors import BadRequest
from kanserve.scoring import folder
from kanserve.scoring.extras import (
    Contributions,
    ErrorBarColumns,
    Extra,
    Flag,
    InputCoverage,
    PredictionIntervals,
    Scored,
)
from kanserve.services.intervals import Reliability
from kanserve.tables import columns
from kanserve.tables.columns import Block, Reader, Selection
from kanserve.tables.errors import TableError
from kanserve.tables.record_batches import arrow
from kanserve.types import DTYPES, NUMPY_DTYPES, Array

ERROR, PASS = NON_FINITE = ("error", "pass")
METADATA = b"kanserve"  # key in the schema of a result


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the results, as `Scorer` takes them."""

    keep: tuple[str, ...] = ()
    explain_top_k: int = 0
    coverage: bool = False
    intervals: bool = False
    error_bars: bool = False
    non_finite: str = ERROR


@dataclass(slots=True)
class Counts:
    """Counted rows.

    rows          all rows
    out_of_range  rows with an input out of range; None if the inputs have no range
    """

    rows: int = 0
    out_of_range: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, rows: int, outside: int | None) -> None:
        """Add a batch."""
        with self._lock:
            self.rows += rows
            if outside is not None:
                self.out_of_range = (self.out_of_range or 0) + outside


class Scorer:
    """Scorer of one model version. Several threads may call it at once, and a copy in another process loads the model
    again.

    The columns of a table are found by the feature names of the model, in any order. Without feature names, the first
    columns are taken. A single column of lists with the name of the model's input is read without a copy.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        version: int | None = None,
        keep: Sequence[str] = (),
        explain_top_k: int = 0,
        coverage: bool = False,
        intervals: bool = False,
        error_bars: bool = False,
        non_finite: str = ERROR,
        check: bool = True,
    ) -> None:
        """Load the model in a folder: of a version, of a model, or of a repository with one model.

        version        the highest one if None
        keep           names of columns of the table that the result keeps
        explain_top_k  add the inputs with the largest contributions to the output, or to the largest of several outputs
        coverage       add how many inputs are out of range, and the farthest one
        intervals      add prediction intervals, or sets of classes
        error_bars     add error bars, infinite for rows outside of the certified box
        non_finite     "error" rejects NaN and infinities, "pass" scores them as the model computes them
        check          run the load check in a sandboxed process first

        Raises ConfigError, NotFound and LoadError for the folder, BadRequest and FailedPrecondition for the options.
        """
        self._place = (str(path), version, check)
        arrow()
        self.options = Options(
            keep=tuple(keep),
            explain_top_k=explain_top_k,
            coverage=coverage,
            intervals=intervals,
            error_bars=error_bars,
            non_finite=non_finite,
        )
        self.model = folder.load(Path(path), version, check=check)
        self._sizes = folder.sizes(self.model)
        self._ranges = folder.InputRanges(self.model)
        self.counts = Counts(out_of_range=0 if self._ranges.known else None)
        manifest = self.model.info.manifest
        self._policy = "" if manifest is None else manifest.out_of_range
        self._readers: dict[Any, Reader] = {}
        if non_finite not in NON_FINITE:
            raise BadRequest(
                f"unknown value {non_finite[:40]!r} of non_finite",
                code="option-value-unknown",
                hint=advice(non_finite, NON_FINITE, what="available"),
            )
        if explain_top_k < 0:
            raise BadRequest(
                f"explain_top_k is {explain_top_k}, expected 0 or more",
                code="option-out-of-range",
                hint="pass the number of inputs to name for each row",
            )
        self._extras: list[Extra] = []
        if explain_top_k:
            self._extras.append(Contributions(self.model, explain_top_k))
        if coverage:
            self._extras.append(InputCoverage(self.model))
        if intervals:
            self._extras.append(PredictionIntervals(self.model))
        if error_bars:
            self._extras.append(ErrorBarColumns(self.model))
        if self._policy == FLAG:
            self._extras.append(Flag())
        if taken := [name for name in self.columns if name in keep]:
            raise BadRequest(
                f"the column {taken[0]!r} to keep has the name of a column of the result",
                code="column-repeated",
                hint="rename the column of the table",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        path, version, check = self._place
        return functools.partial(Scorer, path, version=version, check=check, **asdict(self.options)), ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a result, without those to keep."""
        names = self.model.names.columns(self._sizes)
        outputs = tuple(name for of_output in names.values() for name in of_output)
        return (*outputs, *(field.name for extra in self._extras for field in extra.fields))

    @property
    def reliability(self) -> Reliability | None:
        """Whether the prediction intervals so far are reliable; None without intervals."""
        states = (extra.reliability() for extra in self._extras if isinstance(extra, PredictionIntervals))
        return next(states, None)

    @property
    def error_bar_note(self) -> str:
        """The assumption of the error bars, and how calibration rows contradict it; empty without error bars."""
        return next((extra.note for extra in self._extras if isinstance(extra, ErrorBarColumns)), "")

    def select(self, schema: Any) -> Selection:
        """The columns of a table with this pyarrow schema that the model reads. Raises TableError."""
        return self._reader(schema).selection

    def schema(self, table: Any) -> Any:
        """The pyarrow schema of the results for tables with the schema `table`. Raises TableError."""
        pa = arrow()
        names = list(dict.fromkeys([*self.select(table).columns, *self.options.keep]))
        fields = [table.field(name) for name in names]
        return self(pa.record_batch([pa.nulls(0, field.type) for field in fields], pa.schema(fields))).schema

    def __call__(self, batch: Any) -> Any:
        """The result for a pyarrow RecordBatch, or for a Table, in the order of its rows. Raises TableError,
        BackendError and ResourceExhausted."""
        pa = arrow()
        if isinstance(batch, pa.Table):
            results = [self._batch(part) for part in batch.to_batches()]
            return pa.Table.from_batches(results, None if results else self.schema(batch.schema))
        return self._batch(batch)

    def _batch(self, batch: Any) -> Any:
        """The result for a record batch. Raises the errors of a call."""
        pa = arrow()
        reader = self._reader(batch.schema)
        columns.validate(batch, [*reader.selection.columns, *self.options.keep])
        tensors = zip(self.model.info.outputs, self._sizes.values(), strict=True)
        outputs = [np.empty((batch.num_rows, size), NUMPY_DTYPES[tensor.datatype]) for tensor, size in tensors]
        outside = 0
        parts = [[pa.array([], field.type) for extra in self._extras for field in extra.fields]]
        for block in reader.blocks(batch):
            scored = self._score(reader, batch, block, outputs)
            outside += int(scored.outside.sum())
            if self._extras:
                parts.append([array for extra in self._extras for array in extra.arrays(scored)])
        self.counts.add(batch.num_rows, outside if self._ranges.known else None)
        arrays = [pa.array(np.ascontiguousarray(whole[:, at])) for whole in outputs for at in range(whole.shape[1])]
        arrays += [pa.concat_arrays(column) for column in zip(*parts, strict=True)]
        kinds = [pa.field(name, array.type) for name, array in zip(self.columns, arrays, strict=True)]
        kinds += [batch.schema.field(name).remove_metadata() for name in self.options.keep]
        info = self.model.info
        facts = {"model": info.name, "version": str(info.version), "content": self.model.content}
        schema = pa.schema(kinds, {METADATA: json.dumps(facts).encode()})
        return pa.record_batch([*arrays, *(batch.column(name) for name in self.options.keep)], schema=schema)

    def _score(self, reader: Reader, batch: Any, block: Block, outputs: Sequence[Array]) -> Scored:
        """Compute the outputs of a block of a batch, and write them into `outputs` of the batch. Raises TableError."""
        if self.options.non_finite == ERROR and not block.finite:
            raise reader.not_finite(batch, block)
        outside = np.zeros(len(next(iter(block.feeds.values()))), np.bool_)
        if self._ranges.known and block.low:
            outside = self._ranges.outside(block.feeds, block.low, block.high)
        if self._policy == REJECT and outside.any():
            raise TableError(
                "an input is out of range, and the model rejects such rows (exported with --out-of-range reject)",
                code="input-out-of-range",
                hint="remove the row, or export the model with --out-of-range flag",
                row=block.start + int(np.argmax(outside)),
            )
        for start, feeds in folder.pieces(block.feeds, self.model.most_rows):
            for whole, part in zip(outputs, self.model.run(feeds), strict=True):
                begin = block.start + start
                whole[begin : begin + len(part)] = part.reshape(len(part), -1)
        mine = slice(block.start, block.start + len(outside))
        return Scored(block.feeds, [whole[mine] for whole in outputs], outside)

    def predict(self, rows: Array) -> Array:
        """The outputs [rows, numbers] for rows [rows, numbers] of one input, for programs without Arrow. Raises
        TableError for rows of another width."""
        pa = arrow()
        (tensor, *more) = self.model.info.inputs
        width = int(np.prod(tensor.shape[1:]))
        if more or rows.ndim < 2 or int(np.prod(rows.shape[1:])) != width:
            raise TableError(
                f"found an array of shape {list(rows.shape)}, expected [rows, {width}]",
                code="rows-shape-differs",
                hint="pass one row per line; a model with several inputs needs a table",
            )
        flat = np.ascontiguousarray(rows, DTYPES[tensor.datatype]).reshape(-1)
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
        result = self(pa.record_batch([column], names=[tensor.name]))
        names = self.model.names.columns(self._sizes)
        parts = [result.column(name).to_numpy(zero_copy_only=False) for of in names.values() for name in of]
        return np.stack(parts, axis=1)

    def _reader(self, schema: Any) -> Reader:
        key = schema.remove_metadata()
        reader = self._readers.get(key)
        if reader is None:
            info = self.model.info
            selection = columns.select(schema, info.inputs, self.model.names, self.options.keep)
            reader = self._readers[key] = Reader(schema, selection, info.inputs)
        return reader
