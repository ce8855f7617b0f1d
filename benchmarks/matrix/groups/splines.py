"""Spline networks in efficient-kan's form, on uniform and on adapted knots, compared with all other systems."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

from benchmarks.matrix import contestants, module
from benchmarks.matrix.cells import Case, Made, Work
from benchmarks.matrix.contestants import COMPILE, Truth
from benchmarks.matrix.module import Shape
from kanserve.contrib.bench.entrants import Absent

BATCHES = (1, 16, 64, 256, 1024)
SHAPES = (((4, 8, 1), 5), ((64, 64, 10), 5), ((784, 64, 10), 5), ((256, 256, 256), 5), ((64, 64, 10), 50))
MANY = 256  # rows of the runs that the other export is made for
UNIFORM, ADAPTED = "uniform", "adapted"


def uniform(quick: bool) -> Iterator[Case]:
    """Evenly spaced knots: before any grid update."""
    return _cases(UNIFORM, quick)


def adapted(quick: bool) -> Iterator[Case]:
    """Separate knots for each input, as after a grid update."""
    return _cases(ADAPTED, quick)


def _cases(group: str, quick: bool) -> Iterator[Case]:
    for widths, cells in SHAPES[:2] if quick else SHAPES:
        shape = Shape(widths, cells, adapted=group == ADAPTED)
        yield Case(group, str(shape), BATCHES[:3:2] if quick else BATCHES, functools.partial(make, shape))


def make(shape: Shape, work: Work, most: int = max(BATCHES)) -> Made:
    """Everybody, for up to `most` rows."""
    network, truth, path = ready(shape, work, most)
    version, every = contestants.ours(work, path, truth, rows=MANY)
    every += [
        contestants.by_kernel(work, path, truth),
        contestants.torchs(work, network, truth),
        contestants.eager(network, truth),
        Absent(COMPILE, "left out with --quick") if work.quick else contestants.compiled(network, truth),
        contestants.products(module.depths(shape), most),
        contestants.mlp(work, version, truth.feeds),
    ]
    return Made.of(every, truth.feeds, edges=shape.edges, parameters=shape.parameters)


def ready(shape: Shape, work: Work, most: int) -> tuple[module.Network, Truth, Path]:
    """The network, its outputs for `most` rows in float64, and its checkpoint."""
    network = module.network(shape)
    x = module.rows(shape.widths[0], most)
    return network, Truth({"x": x}, module.exactly(network, x)), module.save(network, work.folder)
