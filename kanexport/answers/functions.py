"""Search for functions of symbolic edges that no file names: recorded outputs decide between names in pykan's table.

The file has an edge's affine parameters, so that only names are open. From several starts, one edge after the other
takes the name with which the outputs are most alike. If that ends too early, the search tries pairs of edges together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

STARTS = ("x", "sin", "x^2", "exp")
SWEEPS = 4  # passes over all edges, at most
MOST = 4000  # readings that the search tries for one file, at most
PAIRED = 4  # the largest number of edges at which the search tries pairs of them

Names = Mapping[str, str]
Unlike = Callable[[Names], tuple[float, bool]]  # from names by edge: how unlike the outputs are, and whether they fit


class _Enough(Exception):
    """The search has tried MOST readings."""


def found(unlike: Unlike, keys: Sequence[str], table: Sequence[str]) -> Names | None:
    """The names from the table, by edge, with which the outputs fit. None if no names fit, or if the search would
    try more than MOST readings."""
    search = _Search(unlike, keys, table)
    try:
        for start in STARTS:
            if (names := search.descend(dict.fromkeys(keys, start))) is not None:
                return names
        return search.pairs()
    except _Enough:
        return None


class _Search:
    def __init__(self, unlike: Unlike, keys: Sequence[str], table: Sequence[str]) -> None:
        self.unlike, self.keys, self.table = unlike, keys, table
        self.tried: dict[tuple[str, ...], tuple[float, bool]] = {}
        self.best: tuple[float, Names] = (math.inf, {})

    def descend(self, names: Names) -> Names | None:
        """Search from a start, one edge after the other."""
        score, fits = self._try(names)
        for _ in range(SWEEPS):
            before = score
            for key in self.keys:
                for name in self.table:
                    other = {**names, key: name}
                    new, fits = self._try(other)
                    if fits:
                        return other
                    if new < score:
                        names, score = other, new
            if score >= before:
                break
        return None

    def pairs(self) -> Names | None:
        """Try every two edges together, with the best names so far for the other edges."""
        names = self.best[1]
        for pair in itertools.combinations(self.keys if len(self.keys) <= PAIRED else (), 2):
            for two in itertools.product(self.table, repeat=2):
                other = {**names, **dict(zip(pair, two, strict=True))}
                if self._try(other)[1]:
                    return other
        return None

    def _try(self, names: Names) -> tuple[float, bool]:
        known = tuple(names[key] for key in self.keys)
        if known not in self.tried:
            if len(self.tried) >= MOST:
                raise _Enough
            self.tried[known] = self.unlike(names)
            self.best = min(self.best, (self.tried[known][0], names), key=lambda one: one[0])
        return self.tried[known]
