"""History of a version's drift: one entry per minute of the last hour, in constant memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kanserve.analysis.drift import ratios
from kanserve.insight.statistics import NodeStatistics
from kanserve.types import Array

MINUTE, ENTRIES = 60.0, 60
NODES = 4096  # of a layer; the history of a wider layer has the largest ratio only


@dataclass(frozen=True, slots=True)
class PastDrift:
    """Drift of the latest rows at a time.

    at            seconds since the epoch
    ratio         per layer [n]: PSI of each node, divided by its no-drift threshold; [1] for a layer of more than NODES
    out_of_range  per layer: the largest share of out-of-range values of a node; NaN without values
    """

    at: float
    ratio: Mapping[int, Array]
    out_of_range: Mapping[int, float]


class DriftHistory:
    """The drift at the end of each minute with traffic. `clock`: seconds since the epoch."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._entries: deque[PastDrift] = deque(maxlen=ENTRIES)

    def add(self, compared: Sequence[NodeStatistics]) -> None:
        """Add the present drift, in place of an entry of the same minute."""
        known = {part.layer: part.drift for part in compared if part.drift is not None}
        if not known:
            return
        ratio, out_of_range = {}, {}
        for layer, drift in known.items():
            values = ratios(drift.psi, drift.psi_threshold).astype(np.float32)
            ratio[layer] = values if len(values) <= NODES else values.max(keepdims=True)
            out_of_range[layer] = float(np.fmax.reduce(drift.out_of_range))
        now = self._clock()
        while self._entries and self._entries[-1].at // MINUTE >= now // MINUTE:  # also if the clock was set back
            self._entries.pop()
        self._entries.append(PastDrift(now, ratio, out_of_range))

    def entries(self) -> Sequence[PastDrift]:
        """The entries of the last hour, the oldest first."""
        oldest = self._clock() - ENTRIES * MINUTE
        return [entry for entry in tuple(self._entries) if entry.at > oldest]
