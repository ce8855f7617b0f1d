"""What the numbers inside a model were on rows of the user's data: a part of the manifest. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeBaseline:
    """What the nodes that a layer is given were on rows of the user's data, at every position, n of them.

    cells      the bounds of the cells in which their values were counted, ascending: a row for each node, or one for
               all; the knots of its grid where a node is a source with knots, else equal parts of what was seen
    counts     [n][cells + 2]: how many values lay below the first bound, in each cell, and above the last
    nonfinite  [n]: how many were NaN or infinite, and are in no count
    mean, std  [n], of the finite ones; std divides by their number
    """

    cells: tuple[tuple[float, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    nonfinite: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What the model's numbers were on rows of the user's data, such as those it was trained on: never the rows
    themselves. `name` and `sha256`: of the file; `mean`: of each number of a row, flat in C order; `layers`: one for
    each layer; `outputs`: the same of the answers, one for each output. No rows: nobody gave any."""

    name: str = ""
    sha256: str = ""
    rows: int = 0
    mean: tuple[float, ...] = ()
    layers: tuple[NodeBaseline, ...] = ()
    outputs: tuple[NodeBaseline, ...] = ()


NO_BASELINE = Baseline()
