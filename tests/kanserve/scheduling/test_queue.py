"""Batch policy and request queue as pure functions."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanserve.execution.executor import InOrder, ServiceTimeEstimate
from kanserve.scheduling.queue import Expired, Policy, PriorityLevel, Queue, Waiting, choose, share

ROWS = st.lists(st.integers(1, 20), min_size=1, max_size=20)


@settings(max_examples=settings.default.max_examples // 5)
@given(ROWS, st.integers(0, 64))
def test_without_a_delay_whatever_waits_is_one_batch(rows: list[int], most: int) -> None:
    count, _ = choose(Policy(most), rows, 0.0, 0.0)
    assert count >= 1
    assert count == 1 or sum(rows[:count]) <= most
    assert count == len(rows) or sum(rows[: count + 1]) > most


@settings(max_examples=settings.default.max_examples // 5)
@given(ROWS, st.integers(1, 64), st.sets(st.integers(1, 64), max_size=4), st.floats(0, 2))
def test_nobody_waits_longer_than_the_delay(rows: list[int], most: int, preferred: set[int], now: float) -> None:
    policy = Policy(most, delay=1.0, preferred=tuple(sorted(preferred)))
    count, wake = choice = choose(policy, rows, 0.0, now)
    if now >= 1.0:  # everything that fits, whatever its size
        assert choice == choose(Policy(most), rows, 0.0, 0.0)
    if not count:
        assert wake == 1.0
        assert sum(rows) < most
        assert sum(rows) <= max(preferred, default=most)
        assert not any(sum(rows[:count]) in preferred for count in range(1, len(rows) + 1))


def test_a_preferred_size_is_taken_at_once_and_not_waited_for_where_it_would_be_passed() -> None:
    policy = Policy(64, delay=1.0, preferred=(4, 8))
    assert choose(policy, [1, 1, 1], 0, 0) == (0, 1.0)
    assert choose(policy, [1, 1, 2], 0, 0) == (3, None)
    assert choose(policy, [2, 2, 4, 1], 0, 0) == (3, None)
    assert choose(policy, [2, 3], 0, 1.0) == (2, None)
    assert choose(policy, [3, 3, 3], 0, 0) == (2, None)
    assert choose(policy, [9, 1], 0, 0) == (1, None)
    assert choose(policy, [3, 3, 3], 0, 1.0) == (3, None)


@settings(max_examples=settings.default.max_examples // 5)
@given(st.integers(1, 10**4), st.integers(0, 16), st.integers(1, 100))
def test_what_waits_is_shared_by_the_instances_that_are_idle(waiting: int, idle: int, least: int) -> None:
    part = share(waiting, idle, least)
    assert part >= least
    assert part * max(1, idle) >= waiting
    assert part == least or (part - 1) * max(1, idle) < waiting


def one(ticket: str, key: str = "k", rows: int = 1, size: int = 1, **times: Any) -> Waiting[str]:
    return Waiting(ticket, key, rows, size, times.pop("arrived", 0.0), **times)


def tickets(waiting: Sequence[Waiting[str]]) -> list[str]:
    return [each.ticket for each in waiting]


def waiting_in(policy: Policy, *entries: Waiting[str], most: int = 99) -> Queue[str]:
    """A queue to which these requests were added."""
    queue: Queue[str] = Queue(policy, most)
    for entry in entries:
        queue.add(entry)
    return queue


def test_the_queue_is_bounded_in_bytes() -> None:
    queue: Queue[str] = Queue(Policy(8), 10)
    assert queue.add(one("a", size=50))  # alone it may be larger
    assert not queue.add(one("b"))
    queue.take(0.0)
    assert [queue.add(one(name, size=4)) for name in "bcd"] == [True, True, False]
    assert queue.add(one("e", size=2))
    batch, _ = queue.take(0.0)
    assert tickets(batch) == ["b", "c", "e"]
    assert not queue.count


def test_who_has_gone_is_found_wherever_it_waits() -> None:
    intime, late = one("a", queue_deadline=9.0), one("b", queue_deadline=0.5)
    queue = waiting_in(Policy(8, delay=1.0, levels=(PriorityLevel(timeout=60, delays=True),)), intime, late)
    queue.expire(0.7)  # one of them waits behind all others now
    assert [queue.remove(each) for each in (late, intime, intime)] == [True, True, False]
    assert (queue.count, queue.rows, queue.take(2.0)) == (0, 0, ([], None))


def test_what_may_not_run_together_does_not_and_keeps_its_order() -> None:
    queue = waiting_in(Policy(8, delay=1.0), *map(one, "abcd", ("k", "k", "other", "k")))
    assert tickets(queue.take(0.0)[0]) == ["a", "b"]  # nothing can join them any more
    assert tickets(queue.take(0.0)[0]) == ["c"]
    assert queue.take(0.0) == ([], 1.0)
    assert tickets(queue.take(1.0)[0]) == ["d"]


def test_those_whose_time_is_over_are_not_run() -> None:
    late, impatient = one("late", deadline=1.0, queue_deadline=0.5), one("impatient", queue_deadline=1.0)
    queue = waiting_in(Policy(8), late, impatient, one("patient", queue_deadline=3.0, deadline=3.0))
    assert queue.soonest == 0.5
    over = queue.expire(2.0)
    assert (tickets(over.late), tickets(over.timed_out)) == (["late"], ["impatient"])
    assert queue.soonest == 3.0
    assert tickets(queue.take(2.0)[0]) == ["patient"]


def test_priorities_come_first_and_may_share_a_batch() -> None:
    queue: Queue[str] = Queue(Policy(2, levels=(PriorityLevel(), PriorityLevel(most=2))), 99)
    assert [queue.add(one(name, level=1)) for name in "abc"] == [True, True, False]  # a bound of its own
    assert queue.add(one("first", level=0))
    assert tickets(queue.take(0.0)[0]) == ["first", "a"]
    assert tickets(queue.take(0.0)[0]) == ["b"]


def test_those_that_waited_too_long_may_come_last_instead() -> None:
    queue: Queue[str] = Queue(Policy(1, levels=(PriorityLevel(delays=True), PriorityLevel())), 99)
    for name, queue_deadline, level in (("a", 1.0, 0), ("b", None, 0), ("c", 1.5, 0), ("low", None, 1)):
        queue.add(one(name, queue_deadline=queue_deadline, level=level))
    for now in (1.2, 2.0):
        assert queue.expire(now) == Expired([], [])
    assert [tickets(queue.take(2.0)[0]) for _ in range(4)] == [["b"], ["a"], ["c"], ["low"]]


@pytest.mark.parametrize(
    ("level", "requested", "queue_deadline"),
    [
        (PriorityLevel(), None, None),
        (PriorityLevel(), 2.0, 12.0),
        (PriorityLevel(timeout=60.0), None, 70.0),
        (PriorityLevel(timeout=60.0), 0.5, 10.5),
        (PriorityLevel(timeout=60.0), 90.0, 70.0),  # a request may ask for less, not for more
        (PriorityLevel(timeout=60.0, override=False), 0.5, 70.0),
        (PriorityLevel(override=False), 0.5, None),
    ],
)
def test_how_long_a_request_waits(level: PriorityLevel, requested: float | None, queue_deadline: float | None) -> None:
    assert level.queue_deadline(10.0, requested) == queue_deadline


def test_a_priority_that_does_not_exist_is_the_default() -> None:
    policy = Policy(8, levels=(PriorityLevel(), PriorityLevel(), PriorityLevel()), usual=1)
    assert [policy.level(priority) for priority in (0, 1, 2, 3, 4, 2**63)] == [1, 0, 1, 2, 1, 1]


def test_a_level_counts_those_that_waited_too_long_too() -> None:
    queue = waiting_in(
        Policy(8, levels=(PriorityLevel(delays=True, most=3),)),
        one("a", queue_deadline=1.0),
        one("b", queue_deadline=1.0),
    )
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
    queue = waiting_in(
        Policy(8, levels=(PriorityLevel(delays=True),)),
        one("a", queue_deadline=1.0, deadline=5.0),
        one("b", queue_deadline=3.0),
    )
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


LEVELS = st.lists(
    st.builds(PriorityLevel, most=st.integers(0, 4), timeout=st.none() | st.integers(1, 5), delays=st.booleans()),
    min_size=1,
    max_size=3,
)
POLICIES = st.builds(
    Policy,
    st.integers(0, 12),
    st.integers(0, 3).map(float),
    st.sets(st.integers(1, 12), max_size=3).map(lambda sizes: tuple(sorted(sizes))),
    LEVELS.map(tuple),
)
ARRIVALS = st.tuples(
    st.just("add"), st.integers(1, 14), st.sampled_from("kl"), st.integers(0, 2), st.none() | st.integers(0, 9)
)
ACTS = st.lists(
    ARRIVALS
    | st.tuples(st.just("gone"), st.integers(0, 30))
    | st.tuples(st.just("pass"), st.integers(1, 4))
    | st.tuples(st.just("take"), st.none() | st.integers(1, 8)),
    max_size=60,
)


@settings(max_examples=settings.default.max_examples // 5)
@given(POLICIES, ACTS)
def test_whatever_happens_nobody_is_lost_run_twice_or_run_too_late(policy: Policy, acts: list[Any]) -> None:
    """A queue compared with its requests: each is rejected, is cancelled, times out or runs, once."""
    queue: Queue[int] = Queue(policy, 8)
    now, waiting, ended = 0.0, {}, []
    for act in [*acts, ("pass", 99), *[("take", None)] * 60]:
        if act[0] == "add":
            _, rows, key, priority, left = act
            level = policy.level(priority % len(policy.levels) + 1)
            deadline = None if left is None else now + left
            queue_deadline = policy.levels[level].queue_deadline(now, None)
            new = Waiting(len(waiting) + len(ended), key, rows, rows % 3, now, queue_deadline, deadline, level)
            same = [each for each in waiting.values() if each.level == level]
            full = 0 < policy.levels[level].most <= len(same)
            heavy = bool(waiting) and sum(each.size for each in waiting.values()) + new.size > 8
            assert queue.add(new) is not (full or heavy)
            if full or heavy:
                ended.append(new.ticket)
            else:
                waiting[new.ticket] = new
        elif act[0] == "gone":
            if waiting:
                result = list(waiting.values())[act[1] % len(waiting)]
                assert queue.remove(result)
                assert not queue.remove(result)
                ended.append(waiting.pop(result.ticket).ticket)
        elif act[0] == "pass":
            now += act[1]
        else:
            over = queue.expire(now)
            batch, wake = queue.take(now, act[1])
            for each in over.late:
                assert each.deadline is not None
                assert each.deadline < now
            for each in over.timed_out:
                assert each.queue_deadline is not None
                assert each.queue_deadline < now
                assert not policy.levels[each.level].delays
            for each in batch:
                assert each.deadline is None or each.deadline >= now
            assert len({each.key for each in batch}) <= 1
            assert len(batch) <= 1 or sum(each.rows for each in batch) <= min(policy.max_rows, act[1] or 99)
            assert [each.level for each in batch] == sorted(each.level for each in batch)
            intime = [each.ticket for each in batch if each.queue_deadline is None or each.queue_deadline >= now]
            assert len(policy.levels) > 1 or intime == sorted(intime)
            for each in (*over.late, *over.timed_out, *batch):
                ended.append(waiting.pop(each.ticket).ticket)
            assert batch or not waiting or (policy.delay and wake is not None and now < wake <= now + policy.delay)
        assert (queue.count, queue.rows) == (len(waiting), sum(each.rows for each in waiting.values()))
    assert not waiting
    assert sorted(ended) == list(range(len(ended)))


@settings(max_examples=settings.default.max_examples // 5)
@given(st.permutations(range(6)))
def test_responses_leave_in_the_order_of_their_requests(ready: list[int]) -> None:
    order: InOrder[int] = InOrder()
    left: list[int] = []
    for ticket in range(6):
        order.expect(ticket)
    for ticket in ready:
        order.ready(ticket, lambda ticket=ticket: left.append(ticket))
        done = set(ready[: ready.index(ticket) + 1])
        assert left == list(itertools.takewhile(done.__contains__, range(6)))


def test_how_long_what_waits_will_take_follows_from_the_runs() -> None:
    pace = ServiceTimeEstimate()
    assert pace.seconds(10**6, 1) == 0.0  # nothing is known yet
    pace.ran(10, 1.0)
    assert pace.seconds(40, 2) == pytest.approx(2.0)
    for _ in range(200):
        pace.ran(10, 5.0)
    assert pace.seconds(1, 1) == pytest.approx(0.5, rel=1e-3)
