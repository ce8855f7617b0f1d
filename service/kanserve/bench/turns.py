"""How long calls take, measured in turns: what disturbs the machine for a while disturbs all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST = 0.02  # seconds of one turn: the call is repeated until these have passed
PAUSE = 0.003  # seconds before a turn: until then threads of another have stopped to wait for work by spinning
QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the seconds of one call: quartiles and median over the rounds."""

    lower: float
    median: float
    upper: float


def measure(
    calls: Mapping[str, Callable[[], object]], rounds: int, *, least: float = LEAST, after: Callable[[], None]
) -> dict[str, NDArray[np.float64]]:
    """Seconds of one call, [rounds] of each. `after` is called when a round is done."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(_turn(call, least))
        after()
    return {name: np.array(values) for name, values in seconds.items()}


def _turn(call: Callable[[], object], least: float) -> float:
    """After one call that is not counted: it finds the caches as others left them."""
    time.sleep(PAUSE)
    call()
    count, begun = 0, time.perf_counter()
    while not count or time.perf_counter() - begun < least:
        call()
        count += 1
    return (time.perf_counter() - begun) / count


def spread(seconds: NDArray[np.float64]) -> Spread:
    """Of [rounds]."""
    return Spread(*map(float, np.quantile(seconds, QUARTERS)))


def ratio(seconds: NDArray[np.float64], ours: NDArray[np.float64]) -> float:
    """How many times as long as ours: the median over the rounds, each compared with its own neighbours."""
    return float(np.median(seconds / ours))
