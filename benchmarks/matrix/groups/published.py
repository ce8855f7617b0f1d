"""Network shapes for which other projects publish times, measured on their machines."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from benchmarks.matrix import contestants
from benchmarks.matrix.cells import Case, Made, Work
from benchmarks.matrix.contestants import ONE_RUN
from benchmarks.matrix.groups import splines
from benchmarks.matrix.module import Shape
from kanexport.shared.manifest import MODEL_FILE

PUBLISHED = "published"
# Shape, rows, microseconds, and of whom.
FIGURES = (
    (Shape((21, 64, 64, 24)), 1, 26.7, "ArKan 0.3 (Rust, AVX2)"),
    (Shape((21, 64, 64, 24)), 64, 1700.0, "ArKan 0.3 (Rust, AVX2)"),
    (Shape((78, 32, 16, 1)), 1, 28.0, "lut-kan 2.2 (tables of int8, Numba)"),
)


def published(quick: bool) -> Iterator[Case]:
    """Each shape once, with the rows that were published."""
    for shape in dict.fromkeys(figure[0] for figure in FIGURES):
        batches = tuple(rows for other, rows, _, _ in FIGURES if other == shape)
        yield Case(PUBLISHED, str(shape), batches, functools.partial(_make, shape))


def _make(shape: Shape, work: Work) -> Made:
    network, truth, path = splines.ready(shape, work, contestants.SEEN)
    version = contestants.exported(work, path)
    every = [
        contestants.served(work, version, truth),
        contestants.one_graph(version / MODEL_FILE, truth, ONE_RUN, "the exported graph"),
        contestants.by_kernel(work, path, truth),
        contestants.torchs(work, network, truth),
        contestants.eager(network, truth),
    ]
    return Made.of(every, truth.feeds, edges=shape.edges, parameters=shape.parameters)
