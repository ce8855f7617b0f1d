"""What happened to versions, the latest of it, for people: the log has everything."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 200
LONG = 300  # characters of a reason


@dataclass(frozen=True, slots=True)
class Happened:
    """At a time, in seconds since the epoch: what, to which version, and what there is to say about it."""

    at: float
    what: str
    model: str
    version: int
    text: str


class History:
    """The last `KEPT` of it; what is older is forgotten."""

    def __init__(self) -> None:
        self._all: deque[Happened] = deque(maxlen=KEPT)

    def add(self, what: str, model: str, version: int, text: str = "") -> None:
        """Now."""
        self._all.append(Happened(time.time(), what, model, version, text[:LONG]))

    def latest(self) -> Sequence[Happened]:
        """The newest first."""
        return list(reversed(self._all))
