"""What a model's numbers are over rows, beside what they were on the rows that its export was given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.manifest import Manifest
from kanserve.backends import Session
from kanserve.interpret import drift
from kanserve.interpret.drift import Drift, Window
from kanserve.nouns import Array
from kanserve.scheduling import merge

OUTPUT = -1  # as a layer: the answers


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Of the nodes that a layer is given, or of the outputs (layer -1): what they were, and how far that is from the
    baseline."""

    layer: int
    window: Window
    drift: Drift


Run = Callable[[Sequence[str], Mapping[str, Array]], list[Array]]


class Nodes:
    """Whose numbers the manifest's baseline has: what each layer is given, and the answers."""

    def __init__(self, manifest: Manifest) -> None:
        self._names = [*(layer.node_tensor for layer in manifest.layers), *(one.name for one in manifest.outputs)]
        self._layers = [*range(len(manifest.layers)), *(OUTPUT for _ in manifest.outputs)]
        self._parts = [*manifest.baseline.layers, *manifest.baseline.outputs]
        self._before = manifest.baseline.rows

    def windows(self) -> list[Window]:
        """Empty ones."""
        return [Window(part) for part in self._parts]

    def count(self, windows: Sequence[Window], run: Run, rows: Mapping[str, Array]) -> None:
        """Add what the nodes are for rows [B, ...] by input. Raises what `run` does, and adds nothing then."""
        wanted = [name for name in dict.fromkeys(self._names) if name not in rows]
        values = dict(rows) | dict(zip(wanted, run(wanted, rows), strict=True))
        for window, name in zip(windows, self._names, strict=True):
            window.add(values[name].reshape(-1, values[name].shape[-1]).astype(np.float64))

    def compared(self, windows: Sequence[Window], count: int) -> tuple[NodeStatistics, ...]:
        """Windows over so many rows beside the baseline."""
        return tuple(
            NodeStatistics(at, window, drift.compare(part, self._before, window, count))
            for at, part, window in zip(self._layers, self._parts, windows, strict=True)
        )


class Recent:
    """The latest rows: two windows, one that is full, with `size` rows or a few more, and one that fills."""

    def __init__(self, nodes: Nodes, size: int) -> None:
        self._nodes, self._size = nodes, size
        self._full, self._filling = nodes.windows(), nodes.windows()
        self._rows = [0, 0]  # of the full ones, and of those that fill

    def add(self, windows: Sequence[Window], count: int) -> None:
        """Of so many more rows."""
        self._filling = [filling.plus(window) for filling, window in zip(self._filling, windows, strict=True)]
        self._rows[1] += count
        if self._rows[1] >= self._size:
            self._full, self._filling, self._rows = self._filling, self._nodes.windows(), [self._rows[1], 0]

    def compared(self) -> tuple[int, tuple[NodeStatistics, ...]]:
        """How many rows they are, and what they are beside the baseline."""
        both = [full.plus(filling) for full, filling in zip(self._full, self._filling, strict=True)]
        return sum(self._rows), self._nodes.compared(both, sum(self._rows))


def compute(
    session: Session, manifest: Manifest, rows: Mapping[str, Array], *, step: int
) -> Iterator[tuple[NodeStatistics, ...] | None]:
    """Of the nodes that each layer is given, and of the outputs, over `rows` [B, ...] by input: None after each step of
    so many rows, and at last the answer. The manifest has a baseline."""
    nodes, count = Nodes(manifest), len(next(iter(rows.values())))
    windows = nodes.windows()
    for start in range(0, count, max(1, step)):
        nodes.count(windows, session.run, merge.part(rows, start, start + max(1, step)))
        yield None
    yield nodes.compared(windows, count)
