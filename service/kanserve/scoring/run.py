"""Scoring run: each input file gives one result file, in the order of its rows, and a run that was killed continues."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from kanserve.errors import BadRequest
from kanserve.scoring.files import Input, Journal, Output
from kanserve.scoring.scorer import Scorer
from kanserve.tables import record_batches
from kanserve.tables.columns import Selection
from kanserve.tables.errors import TableError
from kanserve.tables.record_batches import Part, Source, Writer

Report = Callable[[int, int, str], None]  # rows so far, rows in all (an estimate, 0 if unknown), and the file


@dataclass(slots=True)
class Summary:
    """Result of a run.

    files         result files that the run wrote
    skipped       result files that an earlier run wrote
    rows          rows of the written files
    out_of_range  rows of them with an input out of range; None if the inputs have no range
    before        the same two numbers of the result files of earlier runs
    seconds       duration
    ignored       names of columns that no file used
    by_position   whether the positions of columns selected the inputs, because they have no names
    """

    files: int = 0
    skipped: int = 0
    rows: int = 0
    out_of_range: int | None = None
    before: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    ignored: dict[str, None] = field(default_factory=dict)
    by_position: bool = False

    def skip(self, record: dict[str, Any]) -> None:
        """Count a file that an earlier run finished."""
        self.skipped += 1
        rows, outside = self.before
        self.before = rows + int(record.get("rows") or 0), outside + int(record.get("rows_out_of_range") or 0)

    def add(self, selection: Selection, rows: int, outside: int | None) -> None:
        """Add a finished file."""
        self.files += 1
        self.rows += rows
        if outside is not None:
            self.out_of_range = (self.out_of_range or 0) + outside
        self.ignored |= dict.fromkeys(selection.ignored)
        self.by_position = self.by_position or not selection.by_name


@dataclass(slots=True)
class Run:
    """Run of a scorer over files.

    form     form of the results; empty: that of each input
    threads  batches that are computed at the same time
    summary  result of `score` so far
    """

    scorer: Scorer
    output: Output
    form: str = ""
    threads: int = 1
    summary: Summary = field(default_factory=Summary, init=False)

    def fingerprint(self) -> dict[str, Any]:
        """The facts that decide the results."""
        info = self.scorer.model.info
        options = asdict(self.scorer.options)
        options["keep"] = list(options["keep"])
        model = {"name": info.name, "version": info.version, "content": self.scorer.model.content}
        return {"model": model, "options": options | {"form": self.form}}

    def score(self, inputs: Sequence[Input], report: Report, *, overwrite: bool = False) -> Summary:
        """Score all files. Raises BadRequest, TableError and OSError; finished files then stay, and the next run skips
        them."""
        self.summary, began = Summary(), time.monotonic()
        summary = self.summary
        names = [self._name(item) for item in inputs]
        journal = Journal(self.output, self.fingerprint())
        pool: Any = ThreadPoolExecutor(self.threads) if self.threads > 1 else contextlib.nullcontext()
        with self.output.locked(), pool as executor:
            journal.begin(overwrite=overwrite)
            progress = _Progress(inputs, report)
            for item, name in zip(inputs, names, strict=True):
                done = journal.finished(name, item)
                if done is not None:
                    summary.skip(done)
                    progress.skip(item)
                    continue
                counts = self._file(item, name, executor, progress)
                journal.finish(name, item, counts)
        summary.seconds = time.monotonic() - began
        return summary

    def _name(self, item: Input) -> str:
        """The name of the result of a file. Raises BadRequest for a file of an unknown form."""
        form = record_batches.form_of(item.name)
        if not self.form or self.form == form:
            return item.name
        return f"{item.name.rpartition('.')[0]}.{self.form}"

    def _file(self, item: Input, name: str, pool: ThreadPoolExecutor | None, progress: _Progress) -> dict[str, Any]:
        """Score one file; its counts. Raises TableError and OSError."""
        counts, before = self.scorer.counts, (self.scorer.counts.rows, self.scorer.counts.out_of_range)
        with item.opened() as file:
            try:
                source = record_batches.opened(file, record_batches.form_of(item.name))
                selection = self._select(source)
            except TableError as error:
                raise error.located(item.place) from error
            source = source.keeping(set(self.scorer.options.keep) - set(selection.columns))
            progress.begin(item, source.rows)
            columns = [*selection.columns, *self.scorer.options.keep]
            schema = self.scorer.schema(source.schema)
            form = self.form or record_batches.form_of(item.name)
            with self.output.opened(name) as target, Writer(target, form, schema) as writer:
                for result in self._results(item, source, columns, pool):
                    writer.write(result)
                    progress.add(result.num_rows)
        progress.end()
        rows = counts.rows - before[0]
        outside = None if counts.out_of_range is None else counts.out_of_range - (before[1] or 0)
        self.summary.add(selection, rows, outside)
        return {"rows": rows, "rows_out_of_range": outside}

    def _select(self, source: Source) -> Selection:
        try:
            selection = self.scorer.select(source.schema)
        except TableError as error:
            raise (record_batches.wrong_separator(source) or error) from None
        if self.scorer.options.keep and not source.names:
            raise BadRequest(
                "columns to keep need names, but the file has no header",
                code="columns-without-names",
                hint="write a header line, or remove --keep",
            )
        return selection

    def _results(
        self, item: Input, source: Source, columns: Sequence[str], pool: ThreadPoolExecutor | None
    ) -> Iterator[Any]:
        """The results of consecutive rows, in order. With a pool, as many batches as threads are computed while one is
        read and one is written."""
        waiting: deque[Future[Any]] = deque()
        try:
            for part in _located(source.parts(columns), item.place):
                if pool is None:
                    yield self._one(item, part)
                    continue
                waiting.append(pool.submit(self._one, item, part))
                if len(waiting) > self.threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _one(self, item: Input, part: Part) -> Any:
        try:
            return self.scorer(part.batch)
        except TableError as error:
            if error.row >= 0 and record_batches.form_of(item.name) == record_batches.CSV:
                with item.opened() as file:
                    raise error.located(
                        item.place, line=record_batches.line_of(file, part.first + error.row)
                    ) from error
            place = f"{item.place}, {part.place}" if part.place else item.place
            raise error.located(place, part.first) from error


def _located(parts: Iterator[Part], place: str) -> Iterator[Part]:
    try:
        yield from parts
    except TableError as error:
        raise error.located(place) from error


class _Progress:
    """Progress over all files. The number of rows that remain is an estimate from the bytes of the files."""

    def __init__(self, inputs: Sequence[Input], report: Report) -> None:
        self._report = report
        self._left = sum(item.size for item in inputs)  # bytes of files that have not begun
        self._done = self._current = self._bytes = 0  # rows; rows of the current file, 0 if unknown; bytes of the files
        self._before, self._place, self._began = 0, "", time.monotonic()

    def skip(self, item: Input) -> None:
        """Leave out a file."""
        self._left -= item.size

    def begin(self, item: Input, rows: int) -> None:
        """Begin a file. `rows`: its number of rows; 0 if it is not known."""
        self._left -= item.size
        self._bytes += item.size
        self._before, self._current, self._place = self._done, rows, item.name
        self._show()

    def add(self, rows: int) -> None:
        """Count rows of the current file."""
        self._done += rows
        self._show()

    def end(self) -> None:
        """End the current file."""
        self._before, self._current = self._done, 0

    def _show(self) -> None:
        known = self._before + self._current if self._current else 0
        total = known + round(known / self._bytes * self._left) if known and self._bytes else 0
        rate = self._done / max(1e-9, time.monotonic() - self._began)
        self._report(self._done, total, f"{rate:,.0f} rows/s, {self._place}")
