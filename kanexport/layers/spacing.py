"""How far apart the points of a uniform grid are, where a file holds only rounded points.

Libraries keep such a spacing as a Python number, computed from the range their
constructor was given, while the points are stored in float32. A range is nearly
always a short decimal number, so it can be read off the rounded points exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, OptionError
from kanexport.options import Options

Array = npt.NDArray[np.float64]

DECIMAL_LIMIT = 16  # of a range, tried from the fewest on; float64 has no more digits
ORDER = 3  # of the splines that inkan and flashkan have


def between_centres(centres: Array) -> float:
    """(last - first) / (K - 1) of two or more centres [K], with the ends as they were given.

    Source: FastKAN's and RBF-KAN's default denominator.
    """
    first, last = (_shortest(float(end)) for end in (centres[0], centres[-1]))
    return (last - first) / (len(centres) - 1)


WIDTHS = ("1.0",)  # of Gaussians in published layers, beside the centres' spacing: X-KANeRF's GRBFKANLayer
SECANT_WIDTHS = ("0.33", "0.5", "1.0", "2.0")  # of squared secants; the first FasterKAN's default first


def denominator(centres: Array, options: Options) -> float:
    """The width of the Gaussians around centres [K]. It is in no file; the default is
    the centres' spacing. Raises OptionError where there is a single centre."""
    if len(centres) > 1:
        return options.number("denominator", repr(between_centres(centres)), among=WIDTHS)
    if options.optional("denominator") is None:
        raise OptionError(
            "the denominator of the Gaussians is in no file, and a single centre has no spacing to take it from",
            hint="give --option denominator=NUMBER",
        )
    return options.number("denominator", "1.0")


def secant_rate(centres: Array, options: Options) -> float:
    """What the distances from centres [K] are multiplied by in squared secants whose width is in
    no file; the default is the first FasterKAN's 1 / 0.33. Raises OptionError."""
    spacing = (repr(between_centres(centres)),) if len(centres) > 1 else ()
    width = options.number("denominator", SECANT_WIDTHS[0], among=(*SECANT_WIDTHS, *spacing))
    if not width:
        raise OptionError("option denominator is 0, expected a number that is not")
    return 1 / width


def _shortest(value: float) -> float:
    """The shortest decimal number that float32 rounds to `value`; `value` itself if it
    needs more than float32 holds."""
    if not np.isfinite(value) or float(np.float32(value)) != value:
        return value
    return float(str(np.float32(value)))


def between_starts(starts: Array) -> float:
    """The cell width h of uniform cubic splines, from where each of the K >= 4 begins.

    Source: inkan's and flashkan's KANLayer, for a range (low, high) of G = K - 3 cells:
    start_c = c h + low - 3 h, in the precision the starts are stored in. The range
    with the fewest decimals that gives the stored starts to the last bit is taken;
    where there is none, the mean distance.
    """
    cells = len(starts) - ORDER
    mean = float(starts[-1] - starts[0]) / (len(starts) - 1)
    kind = np.float32 if bool(np.all(starts == starts.astype(np.float32))) else np.float64
    for digits in range(DECIMAL_LIMIT + 1):
        low, high = round(float(starts[ORDER]), digits), round(float(starts[ORDER]) + cells * mean, digits)
        if np.array_equal(_starts(low, high, cells, kind), starts):
            return (high - low) / cells
    return mean


def cubic_step(starts: Array, options: Options) -> float:
    """The cell width h of the splines that begin at starts [K]. It is in no file; the
    default is what `between_starts` finds. Raises InvalidKan and OptionError."""
    if len(starts) <= ORDER:
        raise InvalidKan(f"there are {len(starts)} starts of cubic splines, expected G + 3 with G >= 1")
    if not np.isfinite(starts).all() or not (np.diff(starts) > 0).all():
        raise InvalidKan(f"grid_starts are not finite and increasing: {starts.tolist()[:8]}")
    return options.number("h", repr(between_starts(starts)))


def _starts(low: float, high: float, cells: int, kind: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """What the libraries store for a range. torch rounds a Python number before it uses it."""
    step = (high - low) / cells
    return np.asarray(np.arange(cells + ORDER, dtype=kind) * kind(step) + kind(low) - kind(ORDER * step))
