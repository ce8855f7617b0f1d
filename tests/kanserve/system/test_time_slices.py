"""Time slices of threads: the kernel has the slice that a thread requests, and its other attributes stay."""

import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kanserve.system import resources, time_slices
from tests.support.loop_stalls import time_slice

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> T:
    """The result of some work on a new thread, whose attributes end with it."""
    result: list[T] = []
    thread = threading.Thread(target=lambda: result.append(work()))
    thread.start()
    thread.join()
    return result[0]


@pytest.fixture
def usual() -> float:
    value = in_thread(lambda: time_slice(0) if time_slices.usual() else None)
    if value is None:
        pytest.skip("this kernel has no slices of threads, which Linux 6.12 has")
    return value


def test_a_thread_gets_a_short_slice_and_the_usual_one_back(usual: float) -> None:
    def both() -> tuple[float | None, float | None]:
        time_slices.short()
        first = time_slice(0)
        time_slices.usual()
        return first, time_slice(0)

    assert usual > time_slices.SHORT
    assert in_thread(both) == (time_slices.SHORT, usual)


def test_threads_inherit_the_slice_but_for_compute_threads(usual: float) -> None:
    def computed() -> float | None:
        time_slices.short()
        with resources.pool(1, "work", 0) as pool:
            return pool.submit(time_slice, 0).result()

    assert in_thread(lambda: time_slices.short() and in_thread(lambda: time_slice(0))) == time_slices.SHORT
    assert in_thread(computed) == usual


def test_a_peer_of_the_event_loop_has_its_slice_and_its_priority(usual: float) -> None:
    def own() -> tuple[float | None, int, str]:
        thread = threading.get_native_id()
        name = Path(f"/proc/self/task/{thread}/comm").read_text().strip()
        return time_slice(0), os.getpriority(os.PRIO_PROCESS, thread), name

    with resources.single_thread("counter") as pool:
        assert pool.submit(own).result() == (time_slices.SHORT, os.getpriority(os.PRIO_PROCESS, 0), "counter")


def test_a_thread_that_yields_passes_the_interpreter_lock() -> None:
    """Without the yield, a waiting thread gets the lock once per switch interval."""
    ended, turns = threading.Event(), 0

    def wait_for_the_lock() -> None:
        nonlocal turns
        while not ended.is_set():
            turns += 1
            time.sleep(0)  # the other thread takes the lock here

    thread = threading.Thread(target=wait_for_the_lock)
    usual = sys.getswitchinterval()
    sys.setswitchinterval(60.0)
    thread.start()
    try:
        for _ in range(5):
            before = turns
            while turns == before:  # more than once only on a busy machine
                resources.yield_lock()
    finally:
        ended.set()
        sys.setswitchinterval(usual)
        thread.join()


def test_niceness_and_another_policy_stay() -> None:
    def lower() -> int:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 12)
        time_slices.short()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def batch() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return time_slices.short(), os.sched_getscheduler(0)

    assert in_thread(lower) == 12
    assert in_thread(batch) == (False, os.SCHED_BATCH)


def test_an_unknown_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not time_slices.short()
