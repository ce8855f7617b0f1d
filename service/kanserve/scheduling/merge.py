"""Several requests as one run of a graph, and its outputs as their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kanserve.nouns import Array

ALIGNED = 64  # bytes; the widest registers'


def together(feeds: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Inputs one after the other along the rows; of one request as they are."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}


def part(feeds: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    """Rows of every input, as views where they begin as the whole does. Elsewhere a copy: with its input at an odd
    address the runtime adds up in another order, and the same row has other last bits."""
    return {
        name: piece if array.strides[0] * start % ALIGNED == 0 else piece.copy()
        for name, array in feeds.items()
        for piece in (array[start:stop],)
    }


def apart(outputs: Sequence[Array], rows: Sequence[int]) -> list[list[Array]]:
    """By request, its rows of every output, as views."""
    if len(rows) == 1:
        return [list(outputs)]
    ends = np.cumsum(rows)
    return [[array[end - count : end] for array in outputs] for count, end in zip(rows, ends, strict=True)]
