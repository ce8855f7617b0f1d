"""When a batch is made, and of what: Triton's dynamic batcher as a function of what waits and of the time.

Source: Triton's model configuration guide, "Dynamic Batcher": preferred_batch_size and
max_queue_delay_microseconds. With no delay, the default, whatever waits is one batch and nothing waits for more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """`max_rows`: of one batch; `delay`: seconds that the first may wait for others; `preferred`: numbers of
    rows that are worth waiting for, ascending."""

    max_rows: int
    delay: float = 0.0
    preferred: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """`count`: how many of those that wait, the first ones, run now as one batch. With 0, `wake` is when to
    ask again, on the clock that `now` is of."""

    count: int
    wake: float | None = None


def choose(policy: Policy, rows: Sequence[int], arrived: float, now: float) -> Choice:
    """What to do with requests of so many `rows`, in their order, that may run together; the first of them
    `arrived` then. One that is larger than a batch runs alone."""
    if not rows:
        return Choice(0)
    sums = _sums(rows, policy.max_rows)
    fitting = [count for count, total in enumerate(sums, 1) if total in policy.preferred]
    full = len(sums) < len(rows) or sums[-1] >= policy.max_rows
    if fitting:
        return Choice(fitting[-1])
    if full or now >= arrived + policy.delay:
        return Choice(len(sums))
    return Choice(0, arrived + policy.delay)


def _sums(rows: Sequence[int], most: int) -> list[int]:
    """The rows of the first, of the first two, and so on, as far as they fit; at least one."""
    sums = [rows[0]]
    for one in rows[1:]:
        if sums[-1] + one > most:
            break
        sums.append(sums[-1] + one)
    return sums
