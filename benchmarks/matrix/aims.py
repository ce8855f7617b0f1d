"""The goals of this project's speed, as its plan has them; a new one is a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.matrix import goals
from benchmarks.matrix.contestants import EXPORT, GEMMS
from benchmarks.matrix.goals import Figure, Goal, Record, least, mean, time
from benchmarks.matrix.groups.families import FAMILIES, LIBRARY
from benchmarks.matrix.groups.published import FIGURES, PUBLISHED
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM
from benchmarks.matrix.groups.start import SHAPE, START
from benchmarks.matrix.groups.symbolic import NODES, SYMBOLIC
from benchmarks.matrix.groups.threads import CELLS, GRIDS, PARTED, PIECES, cells_of
from kanserve.bench.entrants import OURS


def _most(group: str, other: str, ours: str, part: str = "") -> Figure:
    """How many times as long as the other ours takes, at worst, of the cases that have this part in their names."""

    def figure(records: Sequence[Record]) -> float | None:
        found = goals.ratios(records, group, other, ours)
        return max((1 / value for (case, _), value in found.items() if part in case), default=None)

    return figure


def _node_counts(records: Sequence[Record]) -> float | None:
    """How many different ones there are."""
    found = {one["facts"][NODES] for one in records if one["group"] == SYMBOLIC and NODES in one["facts"]}
    edges = {one["facts"]["edges"] for one in records if one["group"] == SYMBOLIC and NODES in one["facts"]}
    return float(len(found)) if len(edges) > 1 else None


def _unsteady(records: Sequence[Record]) -> float | None:
    """How many times ours gave other bits in another run of the same rows."""
    return float(sum(not one["steady"] for record in records for one in record["entrants"])) if records else None


def _published() -> Iterator[Goal]:
    for shape, rows, figure, whose in FIGURES:
        what = f"{shape}, {rows} row{'s' * (rows > 1)}, elsewhere"
        yield Goal(what, whose, time(PUBLISHED, str(shape), OURS, rows), figure, False, "{:.1f} us")


def _fine() -> Iterator[Goal]:
    coarse, fine = cells_of(min(CELLS)), cells_of(max(CELLS))
    for knots in (UNIFORM, ADAPTED):
        figure = _most(GRIDS, coarse, fine, knots)
        yield Goal(f"G = {max(CELLS)}, {knots} knots, most", f"G = {min(CELLS)}", figure, 2.0, False)


GOALS = (
    Goal("uniform knots, geometric mean", EXPORT, mean(UNIFORM, EXPORT), 5.0, True),
    Goal("uniform knots, least", EXPORT, least(UNIFORM, EXPORT), 2.0, True),
    Goal("adapted knots, geometric mean", EXPORT, mean(ADAPTED, EXPORT), 3.2, True),
    Goal("adapted knots, least", EXPORT, least(ADAPTED, EXPORT), 1.5, True),
    Goal("uniform knots, geometric mean", GEMMS, mean(UNIFORM, GEMMS, inverse=True), 1.8, False),
    Goal("symbolic models, least", EXPORT, least(SYMBOLIC, EXPORT), 10.0, True),
    Goal("symbolic models: different numbers of nodes", "more edges", _node_counts, 1.0, False, "{:.0f}"),
    Goal("every family, 1 row, least", LIBRARY, least(FAMILIES, LIBRARY, rows=1), 2.0, True),
    Goal("every family, 64 rows, least", LIBRARY, least(FAMILIES, LIBRARY, rows=64), 2.0, True),
    *_published(),
    Goal("1024 rows, most", "16 runs of 64 rows", _most(PIECES, PARTED, OURS), 1.1, False),
    *_fine(),
    Goal("from a file to the first answer", "", time(START, str(SHAPE), OURS, 1, 1e3), 50.0, False, "{:.1f} ms"),
    Goal("other bits from run to run", "the run before", _unsteady, 0.0, False, "{:.0f}"),
)
