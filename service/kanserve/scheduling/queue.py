"""What waits for a model, bounded in bytes; first come, first served."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kanserve.scheduling.policy import Choice, Policy, choose

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Waiting(Generic[T]):
    """One request. `key`: only equal ones run together; `size`: bytes; times on one clock, in seconds: when
    it `arrived`, until when it may wait (`patience`), and when its caller gives up (`deadline`)."""

    ticket: T
    key: Hashable
    rows: int
    size: int
    arrived: float
    patience: float | None = None
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """What `Queue.take` gives: those whose time was over before they ran, and a batch, or when to ask again."""

    impatient: list[Waiting[T]]
    late: list[Waiting[T]]
    batch: list[Waiting[T]]
    wake: float | None


class Queue(Generic[T]):
    """`max_bytes` bound what waits; `rows` are all of its rows."""

    def __init__(self, policy: Policy, max_bytes: int) -> None:
        self._policy, self._max_bytes = policy, max_bytes
        self._waiting: deque[Waiting[T]] = deque()
        self._bytes = self.rows = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, one: Waiting[T]) -> bool:
        """Whether there was room."""
        if self._waiting and self._bytes + one.size > self._max_bytes:
            return False
        self._waiting.append(one)
        self._bytes += one.size
        self.rows += one.rows
        return True

    def remove(self, one: Waiting[T]) -> bool:
        """One whose caller has gone. Whether it was still waiting."""
        try:
            self._waiting.remove(one)
        except ValueError:
            return False
        self._bytes -= one.size
        self.rows -= one.rows
        return True

    def take(self, now: float) -> Taken[T]:
        """Those whose time is over, and the next batch."""
        late, impatient = self._over(now)
        choice = self._choice(now)
        batch = [self._waiting.popleft() for _ in range(choice.count)]
        self._bytes -= sum(one.size for one in batch)
        self.rows -= sum(one.rows for one in batch)
        return Taken(impatient, late, batch, choice.wake)

    def _over(self, now: float) -> tuple[list[Waiting[T]], list[Waiting[T]]]:
        """Those whose callers gave up, and those that waited too long; they wait no more."""
        late = [one for one in self._waiting if one.deadline is not None and now > one.deadline]
        for one in late:
            self.remove(one)
        impatient = [one for one in self._waiting if one.patience is not None and now > one.patience]
        for one in impatient:
            self.remove(one)
        return late, impatient

    def _choice(self, now: float) -> Choice:
        if not self._waiting:
            return Choice(0)
        first = self._waiting[0]
        together = list(itertools.takewhile(lambda one: one.key == first.key, self._waiting))
        choice = choose(self._policy, [one.rows for one in together], first.arrived, now)
        others = len(together) < len(self._waiting)  # behind them: nothing can join this batch any more
        return Choice(len(together)) if others and not choice.count else choice
