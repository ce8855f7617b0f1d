"""What waits for a model, bounded in bytes and, by priority, in requests; first come, first served within one."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from kanserve.scheduling.policy import Choice, Policy, choose

T = TypeVar("T")


@dataclass(slots=True, eq=False)  # not frozen: each request makes one
class Waiting(Generic[T]):
    """One request. `key`: only equal ones run together; `size`: bytes; times on one clock, in seconds: when
    it `arrived`, until when it may wait (`patience`), and when its caller gives up (`deadline`); `level`: of
    its policy's."""

    ticket: T
    key: Hashable
    rows: int
    size: int
    arrived: float
    patience: float | None = None
    deadline: float | None = None
    level: int = 0


@dataclass(frozen=True, slots=True)
class Over(Generic[T]):
    """Those that are not run: the caller of the `late` gave up, the `impatient` waited for too long."""

    late: list[Waiting[T]]
    impatient: list[Waiting[T]]


class _Lane(Generic[T]):
    """One priority: those in time, and behind them those that waited too long but are served all the same."""

    __slots__ = ("delayed", "intime")

    def __init__(self) -> None:
        self.intime: deque[Waiting[T]] = deque()
        self.delayed: deque[Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self.intime) + len(self.delayed)

    def sort(self, now: float, late: list[Waiting[T]], impatient: list[Waiting[T]] | None) -> None:
        """Move out those whose time is over; without `impatient` those that waited too long stay, delayed."""
        before = (*self.delayed, *self.intime)
        self.intime.clear()
        self.delayed.clear()
        for one in before:
            if one.deadline is not None and now > one.deadline:
                late.append(one)
            elif one.patience is None or now <= one.patience:
                self.intime.append(one)
            elif impatient is None:
                self.delayed.append(one)
            else:
                impatient.append(one)


class Queue(Generic[T]):
    """`max_bytes` bound what waits; `rows` are all of its rows."""

    def __init__(self, policy: Policy, max_bytes: int) -> None:
        self._policy, self._max_bytes = policy, max_bytes
        self._lanes: list[_Lane[T]] = [_Lane() for _ in policy.levels]
        self._count = self._bytes = self.rows = 0
        self._soonest = math.inf  # nobody's time is over before this

    def __len__(self) -> int:
        return self._count

    def add(self, one: Waiting[T]) -> bool:
        """Whether there was room."""
        lane, most = self._lanes[one.level], self._policy.levels[one.level].most
        if (self._count and self._bytes + one.size > self._max_bytes) or 0 < most <= len(lane):
            return False
        lane.intime.append(one)
        self._count += 1
        self._bytes += one.size
        self.rows += one.rows
        for end in (one.patience, one.deadline):
            if end is not None and end < self._soonest:
                self._soonest = end
        return True

    def remove(self, one: Waiting[T]) -> bool:
        """One whose caller has gone. Whether it was still waiting."""
        lane = self._lanes[one.level]
        for part in (lane.intime, lane.delayed):
            try:
                part.remove(one)
            except ValueError:
                continue
            self._left(one)
            return True
        return False

    @property
    def soonest(self) -> float:
        """Nobody's time is over before this; infinite if nobody's ever is."""
        return self._soonest

    def expire(self, now: float) -> Over[T]:
        """Those whose time is over: they wait no more, unless their level serves them behind the others."""
        over: Over[T] = Over([], [])
        if now <= self._soonest:
            return over
        for lane, level in zip(self._lanes, self._policy.levels, strict=True):
            lane.sort(now, over.late, None if level.delays else over.impatient)
        for one in (*over.late, *over.impatient):
            self._left(one)
        self._soonest = min((_end(one, now) for one in self._line()), default=math.inf)
        return over

    def take(self, now: float, most: int | None = None) -> tuple[list[Waiting[T]], float | None]:
        """The next batch, of at most so many rows, or when to ask again. Call `expire` before."""
        if not self._count:
            return [], None
        choice = self._choice(now, most)
        return self._first(choice.count), choice.wake

    def _parts(self) -> list[deque[Waiting[T]]]:
        """In the order in which they are served."""
        return [part for lane in self._lanes for part in (lane.intime, lane.delayed) if part]

    def _line(self) -> Iterator[Waiting[T]]:
        """All, in that order."""
        parts = self._parts()
        return iter(parts[0]) if len(parts) == 1 else itertools.chain.from_iterable(parts)

    def _first(self, count: int) -> list[Waiting[T]]:
        """So many wait no more."""
        taken: list[Waiting[T]] = []
        for part in self._parts():
            while part and len(taken) < count:
                taken.append(part.popleft())
        for one in taken:
            self._left(one)
        return taken

    def _left(self, one: Waiting[T]) -> None:
        self._count -= 1
        self._bytes -= one.size
        self.rows -= one.rows
        if not self._count:
            self._soonest = math.inf

    def _choice(self, now: float, most: int | None) -> Choice:
        line = self._line()
        first = next(line)
        together = [first, *itertools.takewhile(lambda one: one.key == first.key, line)]
        policy = self._policy
        oldest = min(one.arrived for one in together) if policy.delay else first.arrived
        choice = choose(policy, [one.rows for one in together], oldest, now, most)
        others = len(together) < self._count  # behind them: nothing can join this batch any more
        return Choice(len(together)) if others and not choice.count else choice


def _end(one: Waiting[T], after: float = -math.inf) -> float:
    """When its time is over: the first of its two ends that is later than `after`."""
    ends = [end for end in (one.patience, one.deadline) if end is not None and end >= after]
    return min(ends, default=math.inf)
