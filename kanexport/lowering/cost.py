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

One graph that branches on its rows (`If`) was measured too: at one row 4 to 11 % slower than packed, at 64 rows of
[784, 64, 10] and [256, 256] 0.9 to 1.2 times as fast on eight functions. It is not worth an operator with graphs of its
own, which the server refuses.
"""

from __future__ import annotations

from collections.abc import Sequence

from kanexport.form.ir import Layer

MANY = 20_000  # values [B, I] of one function, from which tensors apart are surely faster
FUNCTIONS = 64  # of a term; more make thousands of operators, which take long to load


def apart(layer: Layer, rows: int) -> bool:
    """Whether the splines of a layer are a tensor a function, in runs of so many rows."""
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
