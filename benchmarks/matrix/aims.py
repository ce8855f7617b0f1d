"""Speed targets of the project, one line per target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks.matrix import goals, labels
from benchmarks.matrix.contestants import EXPORT, GEMMS, KERNEL
from benchmarks.matrix.goals import Figure, Goal, Record, least, mean, time
from benchmarks.matrix.groups.families import FAMILIES, LIBRARY
from benchmarks.matrix.groups.fewer import FEWER, INT8, SMALLER
from benchmarks.matrix.groups.published import FIGURES, PUBLISHED
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM
from benchmarks.matrix.groups.start import SHAPE, START
from benchmarks.matrix.groups.symbolic import NODES, PYKAN, SYMBOLIC
from benchmarks.matrix.groups.threads import CELLS, GRIDS, KNOTS, PARTED, PIECES, cells_of, knots_of
from kanserve.contrib.bench.entrants import OURS


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
        what = f"Time, portable graph, {shape}, {rows} row{'s' * (rows > 1)}"
        yield Goal(what, f"{whose}, as published", time(PUBLISHED, str(shape), OURS, rows), figure, False, "{:.1f} us")


def _fine() -> Iterator[Goal]:
    coarse, fine = min(CELLS), max(CELLS)
    for ours, limit in ((OURS, 2.0), (KERNEL, 1.3)):
        for knots in (UNIFORM, ADAPTED):
            figure = _most(GRIDS, cells_of(coarse, ours), cells_of(fine, ours), knots)
            yield Goal(f"Time{_of(ours)}, G = {fine}, {knots} knots, largest", f"G = {coarse}", figure, limit, False)
    figure = _most(KNOTS, knots_of(UNIFORM, KERNEL), knots_of(ADAPTED, KERNEL))
    yield Goal(f"Time{_of(KERNEL)}, adapted knots, largest", "uniform knots", figure, 1.3, False)


def _int8(records: Sequence[Record]) -> float | None:
    """How many times as fast as ours exact, 64 rows, at worst."""
    ratios = goals.ratios(records, FEWER, OURS, INT8)
    return min((value for (_, rows), value in ratios.items() if rows == 64), default=None)


def _smaller(records: Sequence[Record]) -> float | None:
    return min((record["facts"][SMALLER] for record in records if SMALLER in record["facts"]), default=None)


def _of(ours: str) -> str:
    return "" if ours == KERNEL else ", portable graph"


def _speedups(ours: str, limits: Mapping[str, tuple[float, float]]) -> Iterator[Goal]:
    """By the kind of knots, the limits of the geometric mean and of the smallest."""
    for knots, (average, smallest) in limits.items():
        what = f"Speedup{_of(ours)}, {knots} knots"
        yield Goal(f"{what}, geometric mean", EXPORT, mean(knots, EXPORT, ours), average, True)
        yield Goal(f"{what}, smallest", EXPORT, least(knots, EXPORT, ours=ours), smallest, True)


def _products(ours: str, knots: str, limit: float) -> Goal:
    what = f"Time{_of(ours)}, {knots} knots, geometric mean"
    return Goal(what, PRODUCTS, mean(knots, GEMMS, ours, inverse=True), limit, False)


def _libraries(ours: str, rows: int, limit: float) -> Goal:
    what = f"Speedup{_of(ours)}, each library, {rows} row{'s' * (rows > 1)}, smallest"
    return Goal(what, labels.of(LIBRARY), least(FAMILIES, LIBRARY, ours=ours, rows=rows), limit, True)


PRODUCTS = labels.of(GEMMS)
GOALS = (
    *_speedups(KERNEL, {UNIFORM: (14.0, 3.4), ADAPTED: (14.0, 3.4)}),
    *_speedups(OURS, {UNIFORM: (5.0, 2.0), ADAPTED: (3.2, 1.5)}),
    *(_products(KERNEL, knots, 1.5) for knots in (UNIFORM, ADAPTED)),
    _products(OURS, UNIFORM, 1.8),
    Goal("Speedup, portable graph, symbolic models, smallest", labels.of(PYKAN), least(SYMBOLIC, PYKAN), 10.0, True),
    Goal("Speedup, portable graph, symbolic models, smallest", EXPORT, least(SYMBOLIC, EXPORT), 10.0, True),
    Goal("Different node counts, symbolic models", "models with more edges", _node_counts, 1.0, False, "{:.0f}"),
    _libraries(KERNEL, 64, 5.0),
    *(_libraries(OURS, rows, 2.0) for rows in (1, 64)),
    *_published(),
    Goal("Time, portable graph, 1024 rows, largest", "16 calls of 64 rows", _most(PIECES, PARTED, OURS), 1.1, False),
    *_fine(),
    Goal("Speedup by int8, [784, 64, 10], 64 rows, smallest", "float32", _int8, 1.5, True),
    Goal("Size reduction of model.onnx by int8, smallest", "float32", _smaller, 3.5, True),
    Goal(
        "Time, portable graph, from file to first prediction",
        "",
        time(START, str(SHAPE), OURS, 1, 1e3),
        50.0,
        False,
        "{:.1f} ms",
    ),
    Goal("Results that are not bit-identical", "the previous run", _unsteady, 0.0, False, "{:.0f}"),
)
