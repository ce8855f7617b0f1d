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
    threads.PIECES: "Many rows, in one run and in small ones",
    threads.THREADS: "One thread and all",
    threads.GRIDS: "Coarse and fine grids",
    threads.KNOTS: "Uniform and adapted knots",
    fewer.FEWER: "Quantization",
    symbolic.SYMBOLIC: "Symbolic models of pykan",
    families.FAMILIES: "Families, each beside its own library: [64, 64, 10]",
    published.PUBLISHED: "Shapes for which others publish times",
    start.START: "From a file to the first answer",
}
