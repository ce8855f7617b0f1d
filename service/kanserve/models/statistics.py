"""What a model's numbers are over rows, beside what they were on the rows that its export was given, if it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.manifest import Manifest
from kanserve.backends import Session
from kanserve.interpret import drift, zones
from kanserve.interpret.drift import Drift
from kanserve.interpret.window import Counts, Window
from kanserve.models import parts
from kanserve.models.parts import Part, Run
from kanserve.nouns import Array
from kanserve.scheduling import merge


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Of the nodes of a part: what they were, and how far that is from the baseline, where there is one."""

    part: Part
    window: Window
    drift: Drift | None

    @property
    def layer(self) -> int:
        """OUTPUT: the answers."""
        return self.part.layer

    @property
    def zones(self) -> Counts:
        """[n, 3]: as of `interpret.zones`."""
        return zones.zones(self.window, self.part.cores)


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted over so many `rows`: a window for each part, and `classes` [C], how often which number of an
    answer was the largest; empty where that says nothing."""

    rows: int
    windows: tuple[Window, ...]
    classes: Counts

    def plus(self, other: Tally) -> Tally:
        """What both were."""
        both = (one.plus(another) for one, another in zip(self.windows, other.windows, strict=True))
        return Tally(self.rows + other.rows, tuple(both), self.classes + other.classes)


class Nodes:
    """Whose numbers are counted. Raises what `parts.parts` does."""

    def __init__(self, manifest: Manifest, run: Run) -> None:
        self.parts = parts.parts(manifest, run)
        self._names = [part.tensor for part in self.parts]
        self._wanted = list(dict.fromkeys(self._names))
        self._classes, self._before = parts.classes(manifest), manifest.baseline.rows
        self.names = manifest.names.classes[: self._classes]  # of classes

    def empty(self) -> Tally:
        """Of no rows."""
        return Tally(0, tuple(Window(part.fine) for part in self.parts), np.zeros(self._classes, np.int64))

    def count(self, run: Run, rows: Mapping[str, Array]) -> Tally:
        """What the nodes are for rows [B, ...] by input. Raises what `run` does."""
        wanted = [name for name in self._wanted if name not in rows]
        values = dict(rows) | dict(zip(wanted, run(wanted, rows), strict=True))
        tally = self.empty()
        for window, name in zip(tally.windows, self._names, strict=True):
            window.add(_flat(values[name]))
        if self._classes:
            tally = Tally(0, tally.windows, largest(_flat(values[self._names[-1]])))
        return Tally(len(next(iter(rows.values()))), tally.windows, tally.classes)

    def compared(self, tally: Tally) -> tuple[NodeStatistics, ...]:
        """Beside the baseline, where there is one."""
        pairs = zip(self.parts, tally.windows, strict=True)
        folded = [window.folded(part.cells, part.times) for part, window in pairs]
        return tuple(
            NodeStatistics(part, window, self._drift(part, window, tally.rows))
            for part, window in zip(self.parts, folded, strict=True)
        )

    def _drift(self, part: Part, window: Window, rows: int) -> Drift | None:
        return None if part.baseline is None else drift.compare(part.baseline, self._before, window, rows)


def _flat(values: Array) -> NDArray[np.float64]:
    """[B, ..., n] -> [N, n]."""
    return values.reshape(-1, values.shape[-1]).astype(np.float64)


def largest(answers: NDArray[np.float64]) -> Counts:
    """[N, C] -> [C]: in how many answers each number is the largest, the first of several; NaN in one: in none."""
    own = answers[~np.isnan(answers).any(axis=1)]
    return np.bincount(own.argmax(axis=1), minlength=answers.shape[1])


class Recent:
    """The latest rows: two tallies, one that is full, with `size` rows or a few more, and one that fills."""

    def __init__(self, nodes: Nodes, size: int) -> None:
        self._nodes, self._size = nodes, size
        self._full, self._filling = nodes.empty(), nodes.empty()

    def add(self, tally: Tally) -> None:
        """Of some more rows."""
        self._filling = self._filling.plus(tally)
        if self._filling.rows >= self._size:
            self._full, self._filling = self._filling, self._nodes.empty()

    def both(self) -> Tally:
        """All of them."""
        return self._full.plus(self._filling)


def compute(
    session: Session, manifest: Manifest, rows: Mapping[str, Array], *, step: int
) -> Iterator[tuple[Sequence[NodeStatistics], Counts] | None]:
    """Of the nodes that each layer is given, and of the outputs, over `rows` [B, ...] by input, and which number of an
    answer was the largest how often: None after each step of so many rows, and at last the answer."""
    nodes, count = Nodes(manifest, session.run), len(next(iter(rows.values())))
    tally = nodes.empty()
    for start in range(0, count, max(1, step)):
        tally = tally.plus(nodes.count(session.run, merge.part(rows, start, start + max(1, step))))
        yield None
    yield nodes.compared(tally), tally.classes
