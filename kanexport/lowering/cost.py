"""Which form of a layer's splines is faster in runs of so many rows: packed or apart (`operators/stacks.py`).

Measured on two cores with 1 MiB of cache each, one thread, cubic splines on uneven knots, to 64 destinations: the
time packed divided by the time apart (medians in turns; 2 000 to 65 000 values, in several shapes).

| rows x sources | 2 000 | 4 000 | 8 000 | 16 000 | 32 000 | 65 000 |
|---|---|---|---|---|---|---|
| 8 functions | 0.7 | 0.8 | 0.9 to 1.1 | 0.9 to 1.2 | 1.1 to 1.3 | 1.1 to 1.5 |
| 23 functions | 0.6 | 0.6 to 0.9 | 0.8 to 1.1 | 0.6 to 1.2 | 1.1 to 3 | 1.3 to 6 |
| 53 functions | 0.5 to 0.6 | 0.6 to 0.7 | 0.4 to 0.9 | 0.9 to 1.1 | 1.8 to 6 | 5 |

What counts is the size of one function's values, whichever way rows and sources make it: below, operators cost more
than the numbers they work on; far above, packed tensors leave the cache. `benchmarks/layouts.py` measures it again.

Layers of few destinations as columns of one matrix product (`narrow.py`), against the closed form packed where knots
are uniform and the recursion packed where they are not: the time of those divided by the time of the columns, from 1
to 256 rows.

| sources, destinations | 5 cells, uniform | 20 cells, uniform | 5 cells, uneven | 20 cells, uneven |
|---|---|---|---|---|
| 2, 5 | 1.2 to 2.6 | 1.2 to 3.5 | 2.1 to 4.0 | 2.1 to 4.3 |
| 4, 8 | 1.2 to 2.1 | 1.2 to 2.5 | 2.1 to 3.1 | 2.0 to 3.0 |
| 8, 1 and 8, 16 | 1.1 to 1.6 | 1.2 to 1.8 | 2.0 to 2.4 | 2.0 to 2.3 |
| 16, 4 and 16, 16 | 1.2 | 1.2 to 1.4 | 1.7 to 2.0 | 1.7 to 1.9 |
| 32, 32 | 0.8 to 1.1 | 0.9 to 1.0 | 1.2 to 1.8 | 1.2 to 1.5 |
| 64, 10 | 1.0 to 1.1 | 1.0 to 1.2 | 1.4 to 1.6 | 1.4 to 1.6 |
| 64, 32 | 0.9 to 1.0 | 0.9 to 1.1 | 1.2 to 1.5 | 1.2 to 1.3 |
| 64, 64 | | | 0.9 to 1.1 | |
| 256, 10 | 0.9 to 1.1 | | 1.3 to 1.4 | |
| 784, 10 | 0.8 to 1.1 | | 0.9 to 1.5 | |

With 50 cells [64, 10] takes 1.1 times as long at one row, 0.7 times at 64.

One graph that branches on its rows (`If`) was measured too: at one row 4 to 11 % slower than packed, at 64 rows of
[784, 64, 10] and [256, 256] 0.9 to 1.2 times as fast on eight functions. It is not worth an operator with graphs of its
own, which the server refuses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kanexport.bases.bspline import BSpline
from kanexport.form.ir import BasisTerm, Layer
from kanexport.operators.stored import FULL

MANY = 20_000  # values [B, I] of one function, from which tensors apart are surely faster
FUNCTIONS = 64  # of a term; more make thousands of operators, which take long to load

FEW_SOURCES = 16
FEW_DESTINATIONS = 32
COLUMNS = 4000  # functions of all sources


def narrow(layer: Layer) -> bool:
    """Whether a layer in float32 is cheaper as columns of one matrix product (`narrow.py`)."""
    given = [term for term in layer.terms if isinstance(term, BasisTerm)]
    splines = [term.basis for term in given if isinstance(term.basis, BSpline)]
    full = all(term.stored == FULL for term in given)  # other columns have other weights than those that are stored
    return full and bool(splines) and all(_narrow(layer, spline) for spline in splines)


def _narrow(layer: Layer, spline: BSpline) -> bool:
    if spline.closed_form(np.float32):
        return layer.sources <= FEW_SOURCES and layer.destinations <= FEW_SOURCES
    small = layer.destinations <= FEW_DESTINATIONS and layer.sources * spline.functions <= COLUMNS
    return small and spline.degree <= 3 and spline.increasing


def apart(layer: Layer, rows: int) -> bool:
    """Whether the splines of a layer are a tensor a function, in runs of so many rows."""
    if narrow(layer):
        return False
    functions = max((term.functions for term in layer.terms if term.kind == "bspline"), default=0)
    return rows * layer.sources >= MANY and 0 < functions <= FUNCTIONS


def notes(layers: Sequence[Layer], rows: int, file: str = "") -> tuple[str, ...]:
    """What a manifest says of a graph that is made for runs of more than one row; `file`: where it is one beside that
    for few."""
    if rows == 1:
        return ()
    chosen = [str(at) for at, layer in enumerate(layers) if apart(layer, rows)]
    what = "no layer of splines is wide enough for another form"
    if chosen:
        what = (
            f"splines of layer{'s' * (len(chosen) > 1)} {', '.join(chosen)}, where they have no closed form, are a "
            "tensor a function, which is faster there and slower in runs of few rows; the numbers are the same"
        )
    made = f"{file} is made for runs of {rows} rows" if file else f"made for runs of {rows} rows (--rows)"
    return (f"{made}: {what}",)
