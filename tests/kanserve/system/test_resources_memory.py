"""Memory check before a load: limits of the machine and the cgroup, and unknown limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from kanserve.errors import LoadError, LoadReason
from kanserve.system import resources

MIB = 2**20


def machine(folder: Path, available: int) -> Path:
    (folder / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {available * 1024} kB\nHugePages: 0\n")
    return folder


def group(folder: Path, most: str, current: int, cache: int) -> Path:
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{current * MIB}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache * MIB}\nslab 3\n")
    return folder


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
def test_what_is_free(tmp_path: Path, most: str, current: int, cache: int, free: int) -> None:
    machine(tmp_path, 1000)
    group(tmp_path, most, current, cache)
    assert resources.available(tmp_path, tmp_path) == free * MIB
    resources.check(free * MIB // resources.FACTOR, tmp_path, tmp_path)
    with pytest.raises(LoadError, match="times as much memory") as caught:
        resources.check(free * MIB // resources.FACTOR + 1, tmp_path, tmp_path)
    assert caught.value.reason is LoadReason.MEMORY


def test_where_nobody_tells_nothing_is_refused(tmp_path: Path) -> None:
    assert resources.available(tmp_path, tmp_path) is None
    resources.check(2**60, tmp_path, tmp_path)
    (tmp_path / "meminfo").write_text("MemAvailable: lots\n")
    (tmp_path / "memory.max").write_text("many\n")
    assert resources.available(tmp_path, tmp_path) is None
