"""Batches: several requests as one execution of a graph, and its outputs divided among their responses."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import numpy as np

from kanserve.types import Array

ALIGNED, LEAST = 64, 16  # bytes of the widest registers, and of each allocation


def joined(feeds: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Inputs of all requests, concatenated along the rows; those of one request unchanged, or copied to aligned bytes,
    which a runtime needs."""
    if len(feeds) == 1:
        return {name: array.copy() if _address(array) % LEAST else array for name, array in feeds[0].items()}
    return {name: np.concatenate([request[name] for request in feeds]) for name in feeds[0]}


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def select_rows(feeds: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    """Rows of every input, as views if they are aligned like the whole input, otherwise as copies. With an input at
    another alignment, the runtime sums in another order, and the last bits of a row may differ."""
    return {
        name: piece if array.strides[0] * start % ALIGNED == 0 else piece.copy()
        for name, array in feeds.items()
        for piece in (array[start:stop],)
    }


def split(outputs: Sequence[Array], rows: Sequence[int]) -> list[list[Array]]:
    """Rows of every output by request, as views."""
    if len(rows) == 1:
        return [list(outputs)]
    ends = np.cumsum(rows)
    return [[array[end - count : end] for array in outputs] for count, end in zip(rows, ends, strict=True)]


Execute = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]
T = TypeVar("T")
P = ParamSpec("P")


def attempt(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Exception:
    """The result of `work`, or any exception that it raises, because requests would wait forever otherwise."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        return error


class Batch:
    """Batch of requests that execute together.

    feeds  the inputs of each request
    piece  largest number of rows of one execution; 0: no division

    Chunks are about equal. No chunk has a single row, because a runtime sums a single row in another order.

    Several threads may call `work` at once: each takes the next chunk until none is left. When all have returned,
    `result` has every row of the outputs, or `error` has the fault. `begun`, `merged` (one input) and `ended` are in
    nanoseconds of perf_counter.
    """

    def __init__(
        self, execute: Execute, outputs: Sequence[str], feeds: Sequence[Mapping[str, Array]], rows: int, piece: int
    ) -> None:
        self._execute, self._outputs, self._feeds = execute, outputs, feeds
        self.rows = rows
        self.pieces = -(-rows // piece) if 0 < piece < rows else 1
        self._left: deque[tuple[int, int]] = deque()
        self._merging: threading.Lock | None = None
        if self.pieces > 1:
            cuts = [rows * at // self.pieces for at in range(self.pieces + 1)]
            self._left, self._merging = deque(itertools.pairwise(cuts)), threading.Lock()
        self._parts: dict[int, list[Array]] = {}
        self._whole: Mapping[str, Array] | None = None
        self.result: list[Array] = []
        self.error: Exception | None = None
        self.begun = self.merged = self.ended = 0

    def work(self) -> None:
        """Execute chunks; callable on any thread."""
        failure = attempt(self._work)
        if failure is not None:
            self.error = failure

    def _work(self) -> None:
        if self._merging is None:
            self.result = self._execute(self._outputs, self._merged())
            self.ended = time.perf_counter_ns()
            return
        with self._merging:
            whole = self._merged() if self._whole is None else self._whole
        while self.error is None:
            try:
                start, stop = self._left.popleft()
            except IndexError:
                return
            self._parts[start] = self._execute(self._outputs, select_rows(whole, start, stop))
            if len(self._parts) == self.pieces:
                parts = [self._parts[start] for start in sorted(self._parts)]
                self.result = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
                self.ended = time.perf_counter_ns()

    def _merged(self) -> Mapping[str, Array]:
        self.begun = time.perf_counter_ns()
        self._whole = whole = joined(self._feeds)
        self.merged = time.perf_counter_ns()
        return whole
