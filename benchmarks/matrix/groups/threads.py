"""Scaling of kanserve's own time with micro-batches, threads, grid intervals and the kind of knots."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from benchmarks.matrix import contestants, module
from benchmarks.matrix.cells import Case, Made, Work
from benchmarks.matrix.contestants import EXPORT, KERNEL, Truth
from benchmarks.matrix.groups import splines
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM
from benchmarks.matrix.module import Shape
from kanserve.contrib.bench.entrants import OURS, Absent, Entrant, Execute, Feeds
from kanserve.system.resources import budget
from kanserve.types import Array

PIECES, THREADS, GRIDS, KNOTS = "pieces", "threads", "grids", "knots"
SHAPES = ((64, 64, 10), (784, 64, 10), (256, 256, 256))
SMALL, LARGE = 64, 1024
ALL, EXPORT_ALL = f"{OURS}, all threads", f"{EXPORT}, all threads"
PARTED = f"{OURS}, {LARGE // SMALL} runs of {SMALL} rows"
CELLS, GRID_SHAPE = (5, 20, 50), (64, 64, 10)


def pieces(quick: bool) -> Iterator[Case]:
    """One call with many rows, compared with small calls, as a server runs both."""
    for adapted in (False, True):
        for widths in SHAPES[: 1 if quick else None]:
            shape = Shape(widths, adapted=adapted)
            yield Case(PIECES, _name(shape), (LARGE,), functools.partial(_pieces, shape))


def threads(quick: bool) -> Iterator[Case]:
    """One thread and all of them."""
    for adapted in (False, True):
        for widths in SHAPES[: 1 if quick else None]:
            shape = Shape(widths, adapted=adapted)
            yield Case(THREADS, _name(shape), (1, SMALL, LARGE), functools.partial(_threads, shape))


def grids(quick: bool) -> Iterator[Case]:
    """The same widths on coarse and fine grids."""
    for adapted in (False, True):
        name = f"{list(GRID_SHAPE)}, {ADAPTED if adapted else UNIFORM}"
        yield Case(GRIDS, name, (1, SMALL, LARGE), functools.partial(_grids, adapted))


def knots(quick: bool) -> Iterator[Case]:
    """The same widths on uniform knots and on adapted ones."""
    for widths in SHAPES[: 1 if quick else None]:
        yield Case(KNOTS, str(Shape(widths)), (1, SMALL, LARGE), functools.partial(_knots, widths))


def cells_of(count: int, ours: str = OURS) -> str:
    """Name of the system whose grid has `count` intervals."""
    return f"{ours}, G = {count}"


def knots_of(name: str, ours: str = OURS) -> str:
    """Name of the system with this kind of knots."""
    return f"{ours}, {name}"


def _name(shape: Shape) -> str:
    return f"{shape}, {ADAPTED if shape.adapted else UNIFORM}"


def _pieces(shape: Shape, work: Work) -> Made:
    _, truth, entrant = _ours(shape, work, OURS)

    def parted(count: int) -> tuple[Execute, str]:
        answer, how = entrant.threads(count)
        return functools.partial(_in_runs, answer), how

    return Made((entrant, dataclasses.replace(entrant, name=PARTED, threads=parted)), truth.feeds)


def _in_runs(answer: Execute, feeds: Feeds) -> list[Array]:
    """All rows, `SMALL` at a time."""
    ((name, x),) = feeds.items()
    return [np.concatenate([answer({name: x[at : at + SMALL]})[0] for at in range(0, len(x), SMALL)])]


def _threads(shape: Shape, work: Work) -> Made:
    network, truth, ours = _ours(shape, work, OURS)
    other = contestants.torchs(work, network, truth)
    return Made((ours, _on(ours, ALL, budget()), other, _on(other, EXPORT_ALL, budget())), truth.feeds)


def _on(entrant: Entrant, name: str, count: int) -> Entrant:
    """On this number of threads, independent of the other systems."""
    return dataclasses.replace(entrant, name=name, threads=lambda _: entrant.threads(count))


def _grids(adapted: bool, work: Work) -> Made:
    plain: list[Entrant | Absent] = []
    kernel: list[Entrant | Absent] = []
    for count in CELLS:
        _, truth, path = splines.ready(Shape(GRID_SHAPE, count, adapted), work, LARGE)
        plain.append(contestants.served(work, contestants.exported(work, path), truth, cells_of(count)))
        kernel.append(contestants.by_kernel(work, path, truth, cells_of(count, KERNEL)))
    return Made.of([*plain, *kernel], truth.feeds)


def _knots(widths: tuple[int, ...], work: Work) -> Made:
    plain: list[Entrant | Absent] = []
    kernel: list[Entrant | Absent] = []
    for adapted in (False, True):
        _, truth, path = splines.ready(Shape(widths, adapted=adapted), work, LARGE)
        name = ADAPTED if adapted else UNIFORM
        plain.append(contestants.served(work, contestants.exported(work, path), truth, knots_of(name)))
        kernel.append(contestants.by_kernel(work, path, truth, knots_of(name, KERNEL)))
    return Made.of([*plain, *kernel], truth.feeds)


def _ours(shape: Shape, work: Work, name: str) -> tuple[module.Network, Truth, Entrant]:
    """As a server runs it."""
    network, truth, path = splines.ready(shape, work, LARGE)
    return network, truth, contestants.served(work, contestants.exported(work, path), truth, name)
