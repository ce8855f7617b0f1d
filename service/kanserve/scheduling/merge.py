"""Several requests as one run of a graph, and its outputs as their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kanserve.nouns import Array


def together(feeds: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Inputs one after the other along the rows; of one request as they are."""
    if len(feeds) == 1:
        return feeds[0]
    return {name: np.concatenate([one[name] for one in feeds]) for name in feeds[0]}


def apart(outputs: Sequence[Array], rows: Sequence[int]) -> list[list[Array]]:
    """By request, its rows of every output, as views."""
    if len(rows) == 1:
        return [list(outputs)]
    ends = np.cumsum(rows)
    return [[array[end - count : end] for array in outputs] for count, end in zip(rows, ends, strict=True)]
