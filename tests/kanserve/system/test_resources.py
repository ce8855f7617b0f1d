"""Tests of `system/resources.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kanserve.system.resources import budget
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
        ({}, 10**6),
    ],
)
def test_the_thread_budget_follows_the_cgroup(tmp_path: Path, files: dict[str, str], quota: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert budget(tmp_path) == min(quota, len(os.sched_getaffinity(0)))


def test_the_process_takes_what_it_may() -> None:
    """The soft limit is raised to what is needed, up to the hard one."""
    script = (
        "import resource; from kanserve.system import resources as o;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 400));"
        "print(o.connections(200), resource.getrlimit(resource.RLIMIT_NOFILE), o.connections(1000))"
    )
    done = subprocess.run([*limited(500), sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.split(maxsplit=1) == ["200", "(264, 400) 336\n"], done.stderr
