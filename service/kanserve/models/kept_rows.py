"""Some of the latest rows that a version was asked, for people who want to see why one of them was answered so.

None are kept unless the operator says so (`keep_rows`): they are callers' data. In memory alone; gone with the version,
with the process, and when its statistics are reset.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kanserve.nouns import Array


@dataclass(frozen=True, slots=True)
class KeptRow:
    """A row [...] by input; `at`: when it was looked into, in seconds since the epoch."""

    at: float
    values: Mapping[str, Array]


class KeptRows:
    """`most` of a window of `window` rows, each with the same chance (Vitter's algorithm R), and of the window before
    for as long as this one has fewer."""

    def __init__(self, most: int, window: int, seed: int | None = None) -> None:
        self._most, self._window = most, max(window, most)
        self._random = random.Random(seed)
        self._now: list[tuple[int, KeptRow]] = []
        self._before: list[tuple[int, KeptRow]] = []
        self._count = 0

    def add(self, rows: Mapping[str, Array]) -> None:
        """Some more [B, ...] by input."""
        at, size = time.time(), len(next(iter(rows.values())))
        for row in range(size):
            if self._count and not self._count % self._window:
                self._before, self._now = self._now, []
            place = self._place(self._count % self._window)
            if place is not None:
                kept = KeptRow(at, {name: values[row].copy() for name, values in rows.items()})
                self._now[place : place + 1] = [(self._count, kept)]
            self._count += 1

    def _place(self, seen: int) -> int | None:
        """For a row before which so many of the window were seen."""
        if len(self._now) < self._most:
            return len(self._now)
        place = self._random.randrange(seen + 1)
        return place if place < self._most else None

    def latest(self) -> Sequence[KeptRow]:
        """The newest first."""
        return list(self._ordered())[: self._most]

    def _ordered(self) -> Iterator[KeptRow]:
        for part in (self._now, self._before):
            yield from (row for _, row in sorted(part, key=lambda one: -one[0]))
