"""Store of statistics in a folder, so that a restart continues them and several workers share them.

The file FOLDER/statistics/MODEL/VERSION/NUMBER.tally belongs to the worker with that number.

A file is a line of JSON and then the arrays, compressed. The server writes it whole or not at all. It accepts a file
only if it has this form, the same graph and the same cells. The folder is the server's own (`safe_files.Folder`), so
the server rejects a link, a FIFO or a directory that others can write. If the folder is full, read-only, rejected or
broken, the server only stops keeping statistics there, and logs one line.

Each window has a mark: the time at which ResetStatistics began it, or 0. The latest mark of all files is the valid one.
Windows with an older mark do not count.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import safe_files, serialization
from kanserve.insight.statistics import NodeCounts, Nodes
from kanserve.observability import logs
from kanserve.types import ModelInfo

FORMAT, MAGIC, SUFFIX = 1, "kanserve statistics", ".tally"
HEAD = 2**12  # bytes of the line of JSON at most
LEVEL = 1  # of compression
KEPT = "kept"
ALONE = 10.0  # seconds between two writes of a single worker
ARRAYS = ("counts", "nonfinite", "sums", "squares", "min", "max")  # of a window

log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class StoredStatistics:
    """Statistics of one worker."""

    mark: float  # mark of its window
    since: float  # begin of the counts, in seconds since the epoch
    seen: int  # rows of all requests
    seconds: float  # time in which the server responded to these
    total: NodeCounts  # counts of all sampled rows
    recent: NodeCounts  # counts of the latest sampled rows


@dataclass(slots=True)
class StatisticsStore:
    """Store of one worker, with its `number` among `workers`, in a folder that all of them share."""

    folder: Path
    number: int = 0
    workers: int = 1
    logged: set[str] = field(default_factory=set, init=False)

    def open_file(self, info: ModelInfo, nodes: Nodes) -> ModelStatisticsFile:
        """The files of one version."""
        own = safe_files.Folder(self.folder, "statistics", info.name, str(info.version))
        return ModelStatisticsFile(self, own, info.digest, nodes)

    def cannot(self, what: str, where: Path, error: Exception) -> None:
        """Log a failure once: for writing, until it works again; for reading, per version; for an unsafe file, per
        path."""
        if isinstance(error, safe_files.UnsafeFile):
            where = Path(str(error.filename))
        key = KEPT if what == KEPT and not isinstance(error, safe_files.UnsafeFile) else str(where)
        if key not in self.logged:
            self.logged.add(key)
            log.warning(
                "statistics_write_failed" if what == KEPT else "statistics_read_failed",
                folder=str(where),
                reason=str(error)[:200],
            )


class ModelStatisticsFile:
    """Files with the statistics of one version, one per worker."""

    def __init__(self, keeping: StatisticsStore, folder: safe_files.Folder, digest: str, nodes: Nodes) -> None:
        self._keeping, self._folder, self._digest, self._nodes = keeping, folder, digest, nodes
        bounds = json.dumps([part.bounds for part in nodes.parts])
        self._cells = hashlib.sha256(bounds.encode()).hexdigest()

    @property
    def every(self) -> float:
        """Least seconds between two writes."""
        return 0.0 if self._keeping.workers > 1 else ALONE

    def write(self, stored: StoredStatistics) -> None:
        """Write the file of this worker."""
        try:
            body = b"".join(array.tobytes() for tally in (stored.total, stored.recent) for array in _arrays(tally))
            numbers = [stored.mark, stored.since, stored.seen, stored.seconds, stored.total.rows, stored.recent.rows]
            head = json.dumps(self._head() | {"numbers": numbers, "sha256": _sum(numbers, body)}).encode()
            self._folder.write(f"{self._keeping.number}{SUFFIX}", head + b"\n" + zlib.compress(body, LEVEL))
            self._keeping.logged.discard(KEPT)
        except OSError as error:
            self._keeping.cannot(KEPT, self._folder.path, error)

    def own(self) -> StoredStatistics | None:
        """The counts before the last restart; None if there are none."""
        return dict(self._all()).get(self._keeping.number)

    def mark(self) -> float:
        """The latest mark of all files."""
        return max((stored.mark for _, stored in self._all()), default=0.0)

    def others(self) -> list[StoredStatistics]:
        """The statistics of other workers. Those of a worker that has exited contain no recent rows."""
        return [
            stored if number < self._keeping.workers else replace(stored, recent=self._nodes.empty())
            for number, stored in self._all()
            if number != self._keeping.number
        ]

    def _all(self) -> Iterator[tuple[int, StoredStatistics]]:
        try:
            names = [name for name in self._folder.names() if name.endswith(SUFFIX)]
        except OSError as error:
            self._keeping.cannot(KEPT, self._folder.path, error)
            return
        for name in names:
            try:
                yield int(name.removesuffix(SUFFIX)), self._read(name)
            except FileNotFoundError:  # of another version
                continue
            except (OSError, ValueError, KeyError, TypeError, OverflowError, zlib.error) as error:
                self._keeping.cannot("read", self._folder.path, error)

    def _head(self) -> dict[str, object]:
        return {"what": MAGIC, "format": FORMAT, "digest": self._digest, "cells": self._cells}

    def _read(self, name: str) -> StoredStatistics:
        """The statistics in a file. Raises OSError, ValueError, KeyError, TypeError, OverflowError, zlib.error."""
        size = 2 * sum(array.nbytes for array in _arrays(self._nodes.empty()))
        line, _, packed = self._folder.read(name, size + size // 256 + 2 * HEAD).partition(b"\n")
        head = serialization.json_of(line[:HEAD])
        if not isinstance(head, dict):
            raise TypeError("the file does not begin with a line of JSON")
        wrong = next((name for name, value in self._head().items() if head.get(name) != value), "")
        if wrong == "digest":  # of an earlier content of this version
            raise FileNotFoundError
        if wrong:
            raise ValueError(f"{name} has another {wrong} than this version")
        unpacking = zlib.decompressobj()
        body = unpacking.decompress(packed, size + 1)
        if len(body) != size or _sum(head["numbers"], body) != head["sha256"]:
            raise ValueError(f"{name} is damaged")
        mark, since, seen, seconds, *rows = head["numbers"]
        halves = body[: size // 2], body[size // 2 :]
        total, recent = (self._tally(int(count), half) for count, half in zip(rows, halves, strict=True))
        return StoredStatistics(mark, since, seen, seconds, total, recent)

    def _tally(self, rows: int, body: bytes) -> NodeCounts:
        """The counts from the bytes of their arrays; the inverse of `_arrays`."""
        tally, at = self._nodes.empty(), 0

        def taken(like: NDArray[np.generic]) -> NDArray[np.generic]:
            nonlocal at
            at += like.nbytes
            return np.frombuffer(body, like.dtype, like.size, at - like.nbytes).reshape(like.shape).copy()

        for window in tally.windows:
            for name in ARRAYS:
                setattr(window, name, taken(getattr(window, name)))
        return NodeCounts(rows, tally.windows, taken(tally.classes).astype(np.int64))


def _arrays(tally: NodeCounts) -> Sequence[NDArray[np.generic]]:
    """The arrays of some counts, in their order in a file."""
    arrays: list[NDArray[np.generic]] = []
    for window in tally.windows:
        arrays += [getattr(window, name) for name in ARRAYS]
    return [*arrays, tally.classes]


def _sum(numbers: list[float], body: bytes) -> str:
    return hashlib.sha256(json.dumps(numbers).encode() + body).hexdigest()


def merged(all_: Sequence[StoredStatistics]) -> StoredStatistics:
    """The statistics of all workers with the latest mark, as those of one."""
    mark = max(stored.mark for stored in all_)
    latest = [stored for stored in all_ if stored.mark == mark]
    total, recent = latest[0].total, latest[0].recent
    for stored in latest[1:]:
        total, recent = total.plus(stored.total), recent.plus(stored.recent)
    return StoredStatistics(
        mark,
        min(stored.since for stored in latest),
        sum(stored.seen for stored in latest),
        max(stored.seconds for stored in latest),
        total,
        recent,
    )
