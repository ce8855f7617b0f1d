"""Tests of `system/resources.py`."""

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kanserve.errors import LoadReason
from kanserve.system import resources
from kanserve.system.resources import budget
from tests.support.bad_requests import not_loaded
from tests.support.loop_stalls import time_slice
from tests.support.server_process import limited


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 10**6),
        ({"cpu.max": "1000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 10**6),
        ({"cpu.max": "nonsense here"}, 10**6),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000", "proc/self/cgroup": "0::/a/b\n"}, 1),
        (
            {"cpu,cpuacct/a/cpu.cfs_quota_us": "1", "cpu,cpuacct/a/cpu.cfs_period_us": "1"}
            | {"proc/self/cgroup": "3:memory:/x\n2:cpu,cpuacct:/a\n"},
            1,
        ),
        ({"cpu.max": "100000 100000", "proc/self/cgroup": "0::/../of/the/host\n"}, 1),
        ({}, 10**6),
    ],
)
def test_the_thread_budget_follows_the_cgroup(tmp_path: Path, files: dict[str, str], quota: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert budget(tmp_path, tmp_path / "proc") == min(quota, len(os.sched_getaffinity(0)))


def test_the_process_takes_what_it_may() -> None:
    """The soft limit is raised to what is needed, up to the hard one."""
    script = (
        "import resource; from kanserve.system import resources as o;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400));"
        "print(o.connections(200), resource.getrlimit(resource.RLIMIT_NOFILE), o.connections(1000))"
    )
    done = subprocess.run([*limited(500), sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split(maxsplit=1) == ["200", "(264, 400) 336\n"], done.stderr


MIB = 2**20


def machine(folder: Path, available: int) -> Path:
    (folder / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available * 1024} kB\nHugePages: 0\n")
    return folder


UNIFIED = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
PLACES = {  # of the group with the limit, in the folder of all groups, with the process's line about it
    "root": (".", "", UNIFIED),
    "own": ("system.slice/kanserve.service", "0::/system.slice/kanserve.service", UNIFIED),
    "parent": ("pods", "0::/pods/a/b", UNIFIED),
    "v1": ("memory/docker/a", "7:pids:/x\n4:memory:/docker/a", V1),
    "v1 in a container": ("memory", "4:memory:/docker/a", V1),
}


def group(folder: Path, place: str, most: str, current: int, cache: int) -> None:
    path, line, names = PLACES[place]
    inside = folder / path
    inside.mkdir(parents=True, exist_ok=True)
    (folder / "self").mkdir()
    (folder / "self" / "cgroup").write_text(f"{line}\n")
    (inside / names[0]).write_text(f"{most}\n")
    (inside / names[1]).write_text(f"{current * MIB}\n")
    (inside / "memory.stat").write_text(f"anon 1\n{names[2]} {cache * MIB}\nslab 3\n")


@pytest.mark.parametrize(
    ("most", "current", "cache", "free"),
    [
        (str(512 * MIB), 500, 0, 12),
        (str(512 * MIB), 500, 300, 312),  # a file cache can be taken back
        (str(512 * MIB), 600, 0, 0),
        (str(9999 * MIB), 10, 0, 1000),  # the machine has less
        ("max", 10, 0, 1000),
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_free(tmp_path: Path, place: str, most: str, current: int, cache: int, free: int) -> None:
    machine(tmp_path, 1000)
    group(tmp_path, place, most, current, cache)
    assert resources.available(tmp_path, tmp_path) == free * MIB
    resources.check(free * MIB // resources.FACTOR, tmp_path, tmp_path)
    with not_loaded(LoadReason.MEMORY, "times as much memory"):
        resources.check(free * MIB // resources.FACTOR + 1, tmp_path, tmp_path)


def test_where_nobody_tells_nothing_is_refused(tmp_path: Path) -> None:
    assert resources.available(tmp_path, tmp_path) is None
    resources.check(2**60, tmp_path, tmp_path)
    (tmp_path / "meminfo").write_text("MemAvailable: lots\n")
    (tmp_path / "memory.max").write_text("many\n")
    assert resources.available(tmp_path, tmp_path) is None


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
    value = in_thread(lambda: time_slice(0) if resources.usual_slice() else None)
    if value is None:
        pytest.skip("this kernel has no slices of threads, which Linux 6.12 has")
    return value


def test_a_thread_gets_a_short_slice_and_the_usual_one_back(usual: float) -> None:
    def both() -> tuple[float | None, float | None]:
        resources.short_slice()
        first = time_slice(0)
        resources.usual_slice()
        return first, time_slice(0)

    assert usual > resources.SHORT
    assert in_thread(both) == (resources.SHORT, usual)


def test_threads_inherit_the_slice_but_for_compute_threads(usual: float) -> None:
    def computed() -> float | None:
        resources.short_slice()
        with resources.pool(1, "work", 0) as pool:
            return pool.submit(time_slice, 0).result()

    assert in_thread(lambda: resources.short_slice() and in_thread(lambda: time_slice(0))) == resources.SHORT
    assert in_thread(computed) == usual


def test_a_peer_of_the_event_loop_has_its_slice_and_its_priority(usual: float) -> None:
    def own() -> tuple[float | None, int, str]:
        thread = threading.get_native_id()
        name = Path(f"/proc/self/task/{thread}/comm").read_text().strip()
        return time_slice(0), os.getpriority(os.PRIO_PROCESS, thread), name

    with resources.single_thread("counter") as pool:
        assert pool.submit(own).result() == (resources.SHORT, os.getpriority(os.PRIO_PROCESS, 0), "counter")


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
        resources.short_slice()
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def batch() -> tuple[bool, int]:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return resources.short_slice(), os.sched_getscheduler(0)

    assert in_thread(lower) == 12
    assert in_thread(batch) == (False, os.SCHED_BATCH)


def test_an_unknown_machine_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not resources.short_slice()
