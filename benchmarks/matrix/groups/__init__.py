"""What is measured, by group: a new one is a file here and a line below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from benchmarks.matrix.cells import Case
from benchmarks.matrix.groups import splines

# From whether only a few cells are wanted to the cases.
GROUPS: Mapping[str, Callable[[bool], Iterable[Case]]] = {
    splines.UNIFORM: splines.uniform,
    splines.ADAPTED: splines.adapted,
}

TITLES = {
    splines.UNIFORM: "Uniform knots",
    splines.ADAPTED: "Adapted knots",
}
