"""Values counted in cells, by the exporter and the server alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def count(bounds: Sequence[float], values: NDArray[np.floating]) -> tuple[tuple[int, ...], int]:
    """How many of `values` lie below the first of the ascending bounds, in each cell between two, and above the last;
    and how many are not finite, and in none. One on a bound is in the cell above it, one on the last in the last."""
    finite = values[np.isfinite(values)]
    places = np.searchsorted(np.asarray(bounds), finite, side="right")
    places[finite == bounds[-1]] = len(bounds) - 1
    return tuple(np.bincount(places, minlength=len(bounds) + 1).tolist()), len(values) - len(finite)
