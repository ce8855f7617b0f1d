"""Speed targets of the project, one line per target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.matrix import goals, labels
from benchmarks.matrix.contestants import EXPORT, GEMMS, KERNEL
from benchmarks.matrix.goals import Figure, Goal, Record, least, mean, time
from benchmarks.matrix.groups.families import FAMILIES, LIBRARY
from benchmarks.matrix.groups.fewer import FEWER, INT8, SMALLER
from benchmarks.matrix.groups.published import FIGURES, PUBLISHED
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM
from benchmarks.matrix.groups.start import SHAPE, START
from benchmarks.matrix.groups.symbolic import NODES, SYMBOLIC
from benchmarks.matrix.groups.threads import CELLS, GRIDS, KNOTS, PARTED, PIECES, cells_of, knots_of
from kanserve.bench.entrants import OURS


def _most(group: str, other: str, ours: str, part: str = "") -> Figure:
    """How many times as long as the other ours takes, at worst, of the cases that have this part in their names."""

    def figure(records: Sequence[Record]) -> float | None:
        ratios = goals.ratios(records, group, other, ours)
        return max((1 / value for (case, _), value in ratios.items() if part in case), default=None)

    return figure


def _node_counts(records: Sequence[Record]) -> float | None:
    """How many different ones there are."""
    counts = {record["facts"][NODES] for record in records if record["group"] == SYMBOLIC and NODES in record["facts"]}
    edges = {record["facts"]["edges"] for record in records if record["group"] == SYMBOLIC and NODES in record["facts"]}
    return float(len(counts)) if len(edges) > 1 else None


def _unsteady(records: Sequence[Record]) -> float | None:
    """Number of results of kanserve that are not bit-identical to another call with the same rows."""
    return (
        float(sum(not entrant["steady"] for record in records for entrant in record["entrants"])) if records else None
    )


def _published() -> Iterator[Goal]:
    for shape, rows, figure, whose in FIGURES:
        what = f"Time, {shape}, {rows} row{'s' * (rows > 1)}"
        yield Goal(what, f"{whose}, as published", time(PUBLISHED, str(shape), OURS, rows), figure, False, "{:.1f} us")


def _fine() -> Iterator[Goal]:
    coarse, fine = min(CELLS), max(CELLS)
    for ours, limit in ((OURS, 2.0), (KERNEL, 1.2)):
        for knots in (UNIFORM, ADAPTED):
            figure = _most(GRIDS, cells_of(coarse, ours), cells_of(fine, ours), knots)
            yield Goal(f"{_time(ours)}, G = {fine}, {knots} knots, largest", f"G = {coarse}", figure, limit, False)
    figure = _most(KNOTS, knots_of(UNIFORM, KERNEL), knots_of(ADAPTED, KERNEL))
    yield Goal(f"{_time(KERNEL)}, adapted knots, largest", "uniform knots", figure, 1.3, False)


def _int8(records: Sequence[Record]) -> float | None:
    """How many times as fast as ours exact, 64 rows, at worst."""
    ratios = goals.ratios(records, FEWER, OURS, INT8)
    return min((value for (_, rows), value in ratios.items() if rows == 64), default=None)


def _smaller(records: Sequence[Record]) -> float | None:
    return min((record["facts"][SMALLER] for record in records if SMALLER in record["facts"]), default=None)


def _time(ours: str) -> str:
    return "Time" + ours.removeprefix(OURS).replace(" --", " with --")


PRODUCTS = labels.of(GEMMS)
GOALS = (
    Goal("Speedup, uniform knots, geometric mean", EXPORT, mean(UNIFORM, EXPORT), 5.0, True),
    Goal("Speedup, uniform knots, smallest", EXPORT, least(UNIFORM, EXPORT), 2.0, True),
    Goal("Speedup, adapted knots, geometric mean", EXPORT, mean(ADAPTED, EXPORT), 3.2, True),
    Goal("Speedup, adapted knots, smallest", EXPORT, least(ADAPTED, EXPORT), 1.5, True),
    Goal("Time, uniform knots, geometric mean", PRODUCTS, mean(UNIFORM, GEMMS, inverse=True), 1.8, False),
    *(
        Goal(f"Speedup with --kernel, {knots} knots, geometric mean", EXPORT, mean(knots, EXPORT, KERNEL), limit, True)
        for knots, limit in ((UNIFORM, 7.0), (ADAPTED, 6.0))
    ),
    *(
        Goal(
            f"{_time(KERNEL)}, {knots} knots, geometric mean",
            PRODUCTS,
            mean(knots, GEMMS, KERNEL, inverse=True),
            1.5,
            False,
        )
        for knots in (UNIFORM, ADAPTED)
    ),
    Goal("Speedup, symbolic models, smallest", EXPORT, least(SYMBOLIC, EXPORT), 10.0, True),
    Goal("Different node counts, symbolic models", "models with more edges", _node_counts, 1.0, False, "{:.0f}"),
    Goal("Speedup, each library, 1 row, smallest", labels.of(LIBRARY), least(FAMILIES, LIBRARY, rows=1), 2.0, True),
    Goal("Speedup, each library, 64 rows, smallest", labels.of(LIBRARY), least(FAMILIES, LIBRARY, rows=64), 2.0, True),
    *_published(),
    Goal("Time, 1024 rows, largest", "16 calls of 64 rows", _most(PIECES, PARTED, OURS), 1.1, False),
    *_fine(),
    Goal("Speedup by int8, [784, 64, 10], 64 rows, smallest", "float32", _int8, 1.5, True),
    Goal("Size reduction of model.onnx by int8, smallest", "float32", _smaller, 3.5, True),
    Goal("Time from file to first prediction", "", time(START, str(SHAPE), OURS, 1, 1e3), 50.0, False, "{:.1f} ms"),
    Goal("Results that are not bit-identical", "the previous run", _unsteady, 0.0, False, "{:.0f}"),
)
