"""Rules of the request queue at their exact time and number limits."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kanserve.scheduling.queue import Policy, PriorityLevel, Queue, Waiting
from tests.kanserve.scheduling.test_queue import one, tickets


def waiting_in(policy: Policy, *entries: Waiting[str], most: int = 99) -> Queue[str]:
    """A queue to which these requests were added."""
    queue: Queue[str] = Queue(policy, most)
    for entry in entries:
        queue.add(entry)
    return queue


def delaying(levels: int = 1, **more: Any) -> Policy:
    return Policy(8, levels=(PriorityLevel(delays=True, **more),) * levels)


def test_a_level_counts_those_that_waited_too_long_too() -> None:
    queue = waiting_in(delaying(most=3), one("a", queue_deadline=1.0), one("b", queue_deadline=1.0))
    queue.expire(2.0)
    assert [queue.add(one("c")), queue.add(one("d"))] == [True, False]  # two behind, one before
    assert queue.count == 3


@pytest.mark.parametrize("now", [1.0, 1.0 + 1e-9])
def test_who_may_wait_until_a_moment_may_wait_in_it(now: float) -> None:
    over = now > 1.0
    for times in ({"queue_deadline": 1.0}, {"deadline": 1.0}):
        queue = waiting_in(Policy(8), one("a", **times), one("b", queue_deadline=0.5))  # whose end has the queue look
        result = queue.expire(now)
        assert "a" in tickets([*result.late, *result.timed_out]) if over else tickets(result.timed_out) == ["b"]
        assert tickets(queue.take(now)[0]) == ([] if over else ["a"])


def test_the_next_end_is_that_of_those_who_are_left() -> None:
    queue = waiting_in(delaying(), one("a", queue_deadline=1.0, deadline=5.0), one("b", queue_deadline=3.0))
    queue.expire(2.0)
    assert queue.soonest == 3.0
    queue.expire(4.0)
    assert queue.soonest == 5.0
    assert tickets(queue.expire(5.5).late) == ["a"]
    assert queue.soonest == math.inf  # `b` waits behind the others for ever


def test_an_empty_queue_has_no_end() -> None:
    first, second = one("a", deadline=1.0), one("b", deadline=2.0)
    queue = waiting_in(Policy(8), first, second)
    queue.remove(first)
    assert queue.soonest == 1.0  # looked at again when it comes
    queue.remove(second)
    assert queue.soonest == math.inf


def test_a_batch_waits_from_when_its_oldest_came() -> None:
    policy = Policy(8, delay=1.0, levels=(PriorityLevel(), PriorityLevel()))
    queue = waiting_in(policy, one("low", level=1, arrived=0.0), one("high", level=0, arrived=5.0))
    assert tickets(queue.take(5.0)[0]) == ["high", "low"]
    queue.add(one("new", arrived=6.0))
    assert queue.take(6.5) == ([], 7.0)


def test_a_request_is_itself_and_of_the_highest_level() -> None:
    twins = [Waiting("a", "k", 1, 1, 0.0) for _ in range(2)]
    assert twins[0] != twins[1]
    assert twins[0].level == 0
    assert not waiting_in(Policy(8), twins[0]).remove(twins[1])
