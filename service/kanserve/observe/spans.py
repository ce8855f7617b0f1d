"""What a call did, for its trace: filled while it runs, read when it ends. Empty where nothing is traced."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from kanserve.observe.statistics import Timing


@dataclass(frozen=True, slots=True)
class Run:
    """One request's part in a run of a graph; `ended`: nanoseconds since 1970."""

    rows: int
    timing: Timing
    ended: int


@dataclass(slots=True)
class Trace:
    """Of one call. `id`: as hexadecimal."""

    id: str
    runs: list[Run] = field(default_factory=list)


TRACE: ContextVar[Trace | None] = ContextVar("trace", default=None)
