"""Rows of a module that nobody trained it on: far from the example's, NaN and infinities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kanexport.proof.ports import FLOAT, Port

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.bool_]

FAR = (10.0, 1e3)  # times an example row
VALUES = (np.nan, np.inf, -np.inf)


def floating(ports: Sequence[Port], x: Array) -> Places:
    """Which numbers of a row [N], flat, are floating-point ones: ids of tokens mean nothing elsewhere."""
    if len(ports) == 1:
        return np.full(x[0].size, ports[0].kind == FLOAT)
    return np.concatenate([np.full(port.size, port.kind == FLOAT) for port in ports])


def far(x: Array, places: Places) -> Array:
    """A few rows [B, ...] like the example's, and their negatives, far away. `places`: as `floating` says."""
    few = x[:2].reshape(len(x[:2]), -1)
    rows = np.concatenate([np.where(places, sign * times * few, few) for times in FAR for sign in (1, -1)])
    return rows.reshape(-1, *x.shape[1:]).astype(np.float32).astype(np.float64)


def nonfinite(x: Array, places: Places) -> dict[str, Array]:
    """Rows [1, ...] with NaN or an infinity in one place or all, by words such as "NaN in the middle"."""
    rows = {}
    for words, spoilt in _places(np.flatnonzero(places)).items():
        for value in VALUES:
            row = x[:1].copy()
            row.reshape(-1)[spoilt] = value
            rows[f"{called(value)} {words}"] = row
    return rows


def _places(all_of_them: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[np.intp]]:
    """Where: in the middle, everywhere, first, last; a row of one or two numbers has fewer places."""
    size = len(all_of_them)
    ends = {"in the first place": all_of_them[:1], "in the last place": all_of_them[-1:]} if size > 2 else {}
    middle = {"in the middle": all_of_them[size // 2 : size // 2 + 1]} if size > 1 else {}
    return middle | ({"in every place": all_of_them} if size else {}) | ends


def called(value: float) -> str:
    """A number for people."""
    if np.isnan(value):
        return "NaN"
    return f"{value:.3g}" if np.isfinite(value) else "infinity" if value > 0 else "-infinity"
