"""Functions of symbolic edges that no file names, found from answers: pykan's table is tried, edge by edge.

An edge's affine parameters are in the file, so that only names are open. From several starts, one edge after the other
takes the name at which the answers are most alike; where that ends too early, pairs of edges are tried together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

STARTS = ("x", "sin", "x^2", "exp")
SWEEPS = 4  # over all edges
MOST = 4000  # readings of one file
PAIRED = 4  # edges, up to which pairs of them are tried together

Names = Mapping[str, str]
Unlike = Callable[[Names], tuple[float, bool]]  # of names by edge: how unlike the answers, and whether they fit


class _Enough(Exception):
    """So many were tried."""


def found(unlike: Unlike, keys: Sequence[str], table: Sequence[str]) -> Names | None:
    """The names of the table by edge at which the answers fit; None where none do, or too many were to be tried."""
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
        """From a start, one edge after the other."""
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
        """Every two edges together, the others at their best."""
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
