"""Request queue and batch formation: Triton's dynamic batcher as a function of the waiting requests and the time.

Source: Triton's model configuration guide, "Dynamic Batcher", and its `model_config.proto`: preferred_batch_size,
max_queue_delay_microseconds, priority_levels and ModelQueuePolicy. With no delay, the default, all waiting requests
make one batch, and none waits for more.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(frozen=True, slots=True)
class PriorityLevel:
    """Queue policy of one priority level.

    most      largest number of waiting requests; 0: no separate limit
    timeout   seconds that a request may wait; None: unlimited
    override  True if a request may set a shorter timeout
    delays    True if a timed-out request moves behind all others of its level, instead of a rejection
    """

    most: int = 0
    timeout: float | None = None
    override: bool = True
    delays: bool = False

    def queue_deadline(self, arrived: float, requested: float | None) -> float | None:
        """End of the wait of a request with a timeout of `requested` seconds (None: without a timeout)."""
        if requested is None and self.timeout is None:
            return None
        timeouts = [seconds for seconds in (self.timeout, requested if self.override else None) if seconds is not None]
        return arrived + min(timeouts) if timeouts else None


@dataclass(frozen=True, slots=True)
class Policy:
    """Batching policy of a model.

    max_rows   largest number of rows of a batch
    delay      seconds that the first request may wait for others
    preferred  preferred numbers of rows, ascending
    levels     queue policies by priority; the first is served first
    usual      level of a request without a priority
    ordered    True if responses keep the order of the requests
    """

    max_rows: int
    delay: float = 0.0
    preferred: tuple[int, ...] = ()
    levels: tuple[PriorityLevel, ...] = (PriorityLevel(),)
    usual: int = 0
    ordered: bool = False

    def level(self, priority: int) -> int:
        """Level of a request: 1 is the highest priority; 0 and priorities that do not exist mean the default."""
        return priority - 1 if 1 <= priority <= len(self.levels) else self.usual

    @property
    def free(self) -> bool:
        """True if the policy has no batch sizes and no delay, so that the server may choose the sizes."""
        return not self.delay and not self.preferred


def choose(
    policy: Policy, rows: Sequence[int], oldest: float, now: float, most: int | None = None
) -> tuple[int, float | None]:
    """Decision for waiting requests of `rows` rows each, in their order, that may run together. Returns how many, from
    the first, run now as one batch; if 0, also the time of the next decision, on the clock of `now`. A request that is
    larger than the limit runs by itself.

    oldest  arrival of the first request
    now     current time
    most    limit of the rows of this batch; None: the policy's

    A preferred size runs as soon as the requests reach it, the largest of several. The batch does not wait for a
    preferred size that the next request would exceed. After the delay, all requests that fit run, with any size.
    """
    if not rows:
        return 0, None
    most = policy.max_rows if most is None else min(most, policy.max_rows)
    # The rows of the first request, of the first two, and so on, as far as they fit; at least one number.
    sums = list(itertools.accumulate(rows))
    sums = sums[: max(1, bisect.bisect_right(sums, most))]
    due = oldest + policy.delay
    best = _preferred(policy.preferred, sums)
    if best and not (policy.delay and now >= due):
        return best, None
    enough = min(most, policy.preferred[-1]) if policy.preferred else most
    full = len(sums) < len(rows) or sums[-1] >= enough
    if full or now >= due:
        return len(sums), None
    return 0, due


def _preferred(sizes: Sequence[int], sums: Sequence[int]) -> int:
    """Number of the first requests that make a preferred size or, if none do, that come before the largest is
    exceeded."""
    if not sizes:
        return 0
    fitting = [count for count, total in enumerate(sums, 1) if total in sizes]
    if fitting:
        return fitting[-1]
    if sums[-1] <= sizes[-1]:
        return 0
    return max(1, sum(total <= sizes[-1] for total in sums))


def share(waiting: int, idle: int, least: int) -> int:
    """Rows of a batch when `waiting` rows wait and `idle` instances are idle. Each instance takes a part of at least
    `least` rows, because fewer rows are not worth another run."""
    return max(least, -(-waiting // max(1, idle)))


T = TypeVar("T")


@dataclass(slots=True, eq=False)  # not frozen: each request makes one
class Waiting(Generic[T]):
    """Request in the queue. Times are in seconds on one clock.

    key             only requests with equal keys run together
    size            bytes
    arrived         time of its arrival
    queue_deadline  end of its wait; None: unlimited
    deadline        time at which its client gives up
    level           its level in the policy
    """

    ticket: T
    key: Hashable
    rows: int
    size: int
    arrived: float
    queue_deadline: float | None = None
    deadline: float | None = None
    level: int = 0


@dataclass(frozen=True, slots=True)
class Expired(Generic[T]):
    """Requests that do not run: the clients of the `late` ones gave up, the `timed_out` ones waited too long."""

    late: list[Waiting[T]]
    timed_out: list[Waiting[T]]


class _Lane(Generic[T]):
    """Queue of one priority: requests in time, and behind them delayed requests that waited too long."""

    __slots__ = ("delayed", "intime")

    def __init__(self) -> None:
        self.intime: deque[Waiting[T]] = deque()
        self.delayed: deque[Waiting[T]] = deque()

    def __len__(self) -> int:
        return len(self.intime) + len(self.delayed)

    def sort(self, now: float, late: list[Waiting[T]], timed_out: list[Waiting[T]] | None) -> None:
        """Move out the expired requests. Without `timed_out`, requests that waited too long stay, delayed."""
        before = (*self.delayed, *self.intime)
        self.intime.clear()
        self.delayed.clear()
        for request in before:
            if request.deadline is not None and now > request.deadline:
                late.append(request)
            elif request.queue_deadline is None or now <= request.queue_deadline:
                self.intime.append(request)
            elif timed_out is None:
                self.delayed.append(request)
            else:
                timed_out.append(request)


class Queue(Generic[T]):
    """Queue of `count` requests with `rows` rows. `max_bytes` limits the bytes of their inputs. No request expires
    before the time `soonest`, which is infinite if none expires."""

    def __init__(self, policy: Policy, max_bytes: int) -> None:
        self._policy, self._max_bytes = policy, max_bytes
        self._lanes: list[_Lane[T]] = [_Lane() for _ in policy.levels]
        self.count = self._bytes = self.rows = 0
        self.soonest = math.inf

    def add(self, request: Waiting[T]) -> bool:
        """Add a request. Returns False if the queue is full."""
        lane, most = self._lanes[request.level], self._policy.levels[request.level].most
        if (self.count and self._bytes + request.size > self._max_bytes) or 0 < most <= len(lane):
            return False
        lane.intime.append(request)
        self.count += 1
        self._bytes += request.size
        self.rows += request.rows
        for end in (request.queue_deadline, request.deadline):
            if end is not None and end < self.soonest:
                self.soonest = end
        return True

    def remove(self, request: Waiting[T]) -> bool:
        """Remove a request whose client has gone. Returns True if it was still waiting."""
        lane = self._lanes[request.level]
        for part in (lane.intime, lane.delayed):
            try:
                part.remove(request)
            except ValueError:
                continue
            self._left(request)
            return True
        return False

    def expire(self, now: float) -> Expired[T]:
        """Remove and return the expired requests. A level with `delays` moves its timed-out requests behind the
        others instead."""
        over: Expired[T] = Expired([], [])
        if now <= self.soonest:
            return over
        for lane, level in zip(self._lanes, self._policy.levels, strict=True):
            lane.sort(now, over.late, None if level.delays else over.timed_out)
        for request in (*over.late, *over.timed_out):
            self._left(request)
        ends = (end for request in self._line() for end in (request.queue_deadline, request.deadline))
        self.soonest = min((end for end in ends if end is not None and end >= now), default=math.inf)
        return over

    def take(self, now: float, most: int | None = None) -> tuple[list[Waiting[T]], float | None]:
        """The next batch, of at most `most` rows, or the time of the next call. Call `expire` before."""
        if not self.count:
            return [], None
        line = self._line()
        first = next(line)
        together = [first, *itertools.takewhile(lambda request: request.key == first.key, line)]
        oldest = min(request.arrived for request in together) if self._policy.delay else first.arrived
        count, wake = choose(self._policy, [request.rows for request in together], oldest, now, most)
        if not count and len(together) < self.count:  # others are behind them: nothing can join this batch any more
            count, wake = len(together), None
        return self._first(count), wake

    def _first(self, count: int) -> list[Waiting[T]]:
        """Remove and return the first `count` requests."""
        taken: list[Waiting[T]] = []
        for part in self._parts():
            while part and len(taken) < count:
                taken.append(part.popleft())
        for request in taken:
            self._left(request)
        return taken

    def _parts(self) -> list[deque[Waiting[T]]]:
        """Parts of the queue in the order of service."""
        return [part for lane in self._lanes for part in (lane.intime, lane.delayed) if part]

    def _line(self) -> Iterator[Waiting[T]]:
        """All requests, in the order of service."""
        parts = self._parts()
        return iter(parts[0]) if len(parts) == 1 else itertools.chain.from_iterable(parts)

    def _left(self, request: Waiting[T]) -> None:
        self.count -= 1
        self._bytes -= request.size
        self.rows -= request.rows
        if not self.count:
            self.soonest = math.inf
