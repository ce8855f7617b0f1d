"""When a batch is made, and of what: Triton's dynamic batcher as a function of what waits and of the time.

Source: Triton's model configuration guide, "Dynamic Batcher", and its `model_config.proto`: preferred_batch_size,
max_queue_delay_microseconds, priority_levels and ModelQueuePolicy. With no delay, the default, whatever waits is
one batch and nothing waits for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Level:
    """What holds for the requests of one priority. `most`: that wait (0: no bound of its own); `timeout`: seconds
    that one may wait (None: for ever); `override`: a request may ask for less; `delays`: one that waited too
    long comes after all others of its level, instead of being refused."""

    most: int = 0
    timeout: float | None = None
    override: bool = True
    delays: bool = False

    def patience(self, arrived: float, asked: float | None) -> float | None:
        """Until when a request waits that `asked` for so many seconds (None: it said nothing)."""
        if asked is None and self.timeout is None:
            return None
        wanted = [seconds for seconds in (self.timeout, asked if self.override else None) if seconds is not None]
        return arrived + min(wanted) if wanted else None


@dataclass(frozen=True, slots=True)
class Policy:
    """`max_rows`: of one batch; `delay`: seconds that the first may wait for others; `preferred`: numbers of
    rows that are worth waiting for, ascending; `levels`: by priority, the first is served first; `usual`: the
    level of a request that asks for none; `ordered`: answers leave in the order in which requests came."""

    max_rows: int
    delay: float = 0.0
    preferred: tuple[int, ...] = ()
    levels: tuple[Level, ...] = (Level(),)
    usual: int = 0
    ordered: bool = False

    def level(self, priority: int) -> int:
        """Where a request belongs: 1 is the highest priority; 0, and one that does not exist, are the default's."""
        return priority - 1 if 1 <= priority <= len(self.levels) else self.usual

    @property
    def free(self) -> bool:
        """Nothing is said about sizes, so that the server may choose them."""
        return not self.delay and not self.preferred


@dataclass(frozen=True, slots=True)
class Choice:
    """`count`: how many of those that wait, the first ones, run now as one batch. With 0, `wake` is when to
    ask again, on the clock that `now` is of."""

    count: int
    wake: float | None = None


def choose(policy: Policy, rows: Sequence[int], oldest: float, now: float, most: int | None = None) -> Choice:
    """What to do with requests of so many `rows`, in their order, that may run together; the first that came
    did so at `oldest`. `most`: rows of this batch, if fewer than usual. One that is larger runs alone.

    A preferred size is taken as soon as it is there, the largest of several; one that the next request would
    pass is not waited for. When the delay is over, everything that fits goes, whatever its size.
    """
    if not rows:
        return Choice(0)
    most = policy.max_rows if most is None else min(most, policy.max_rows)
    sums = _sums(rows, most)
    due = oldest + policy.delay
    best = _preferred(policy.preferred, sums)
    if best and not (policy.delay and now >= due):
        return Choice(best)
    enough = min(most, policy.preferred[-1]) if policy.preferred else most
    full = len(sums) < len(rows) or sums[-1] >= enough
    if full or now >= due:
        return Choice(len(sums))
    return Choice(0, due)


def _preferred(sizes: Sequence[int], sums: Sequence[int]) -> int:
    """How many of the first requests make a preferred size or, if none do, come before the largest is passed."""
    if not sizes:
        return 0
    fitting = [count for count, total in enumerate(sums, 1) if total in sizes]
    if fitting:
        return fitting[-1]
    if sums[-1] <= sizes[-1]:
        return 0
    return max(1, sum(total <= sizes[-1] for total in sums))


def _sums(rows: Sequence[int], most: int) -> list[int]:
    """The rows of the first, of the first two, and so on, as far as they fit; at least one."""
    sums = [rows[0]]
    for one in rows[1:]:
        if sums[-1] + one > most:
            break
        sums.append(sums[-1] + one)
    return sums


def share(waiting: int, idle: int, least: int) -> int:
    """Rows of a batch when so many wait and so many instances are idle: each takes a part, but none takes
    fewer than `least`, which are not worth another run."""
    return max(least, -(-waiting // max(1, idle)))
