"""A number that a file leaves open, found from answers: the one at which a reading's error is least."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

SPAN = 16.0  # times the number that would be assumed, up and down
STEPS = 33  # of that span, on a logarithmic scale
PROMISING = 0.3  # times the error of what would be assumed: less than that is worth a closer look
HALVINGS = 40  # of the interval around the best step
DIGITS = 9  # of a number that its user may have written

Error = Callable[[float], float]


def likeliest(error: Error, assumed: float) -> float:
    """The number near `assumed` with the least error; with as few digits as give nearly the same error."""
    if assumed == 0 or not math.isfinite(assumed):
        return assumed
    grid = [float(assumed * factor) for factor in np.geomspace(1 / SPAN, SPAN, STEPS)]
    errors = [error(value) for value in grid]
    at = int(np.argmin(errors))
    if errors[at] > PROMISING * error(assumed):
        return assumed
    low, high = grid[max(at - 1, 0)], grid[min(at + 1, STEPS - 1)]
    return _written(error, _bisected(error, low, high))


def _bisected(error: Error, low: float, high: float) -> float:
    """The least of a function with one minimum between two points, by the golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    errors = [error(value) for value in inner]
    for _ in range(HALVINGS):
        if errors[0] <= errors[1]:
            high, inner[1], errors[1] = inner[1], inner[0], errors[0]
            inner[0] = high - ratio * (high - low)
            errors[0] = error(inner[0])
        else:
            low, inner[0], errors[0] = inner[0], inner[1], errors[1]
            inner[1] = low + ratio * (high - low)
            errors[1] = error(inner[1])
    return (low + high) / 2


def _written(error: Error, value: float) -> float:
    """With the fewest digits that are no worse; a user wrote 0.8, not 0.80000012."""
    bound = 4 * error(value)
    return next((short for short in _shorter(value) if error(short) <= bound), value)


def _shorter(value: float) -> Iterator[float]:
    for digits in range(1, DIGITS):
        yield float(f"{value:.{digits}g}")
