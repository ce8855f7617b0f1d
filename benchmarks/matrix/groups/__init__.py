"""Groups of networks that the matrix measures. A new group is a file here and a line below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from benchmarks.matrix.cells import Case
from benchmarks.matrix.groups import families, fewer, published, splines, start, symbolic, threads

# From whether only a few cells are wanted to the cases.
GROUPS: Mapping[str, Callable[[bool], Iterable[Case]]] = {
    splines.UNIFORM: splines.uniform,
    splines.ADAPTED: splines.adapted,
    threads.PIECES: threads.pieces,
    threads.THREADS: threads.threads,
    threads.GRIDS: threads.grids,
    threads.KNOTS: threads.knots,
    fewer.FEWER: fewer.fewer,
    symbolic.SYMBOLIC: symbolic.symbolic,
    families.FAMILIES: families.families,
    published.PUBLISHED: published.published,
    start.START: start.start,
}

TITLES = {
    splines.UNIFORM: "Uniform knots",
    splines.ADAPTED: "Adapted knots",
    threads.PIECES: "One large call and many small calls",
    threads.THREADS: "One thread and all threads",
    threads.GRIDS: "Coarse and fine grids",
    threads.KNOTS: "Uniform knots compared with adapted knots",
    fewer.FEWER: "Exact and quantized exports",
    symbolic.SYMBOLIC: "Symbolic pykan models",
    families.FAMILIES: "Each library, [64, 64, 10]",
    published.PUBLISHED: "Network shapes with published times",
    start.START: "Time from file to first prediction",
}
