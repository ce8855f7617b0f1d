"""Whether there is memory for one more version beside those that serve.

A version that does not fit is refused with a reason and tried again later; without the question the kernel would end
the process, and with it the versions that serve. Source: the kernel's cgroup-v2 document, `memory.max`,
`memory.current` and `memory.stat`; proc(5), `/proc/meminfo`.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from kanserve.errors import LoadError, LoadReason

FACTOR = 5  # of the files: their bytes here and, while they are tried, in another process, and what the runtime makes
# of them there; measured on graphs of 300 and 900 MiB: 4.7 and 5.1
CGROUP, PROC = Path("/sys/fs/cgroup"), Path("/proc")


def check(size: int, cgroup: Path = CGROUP, proc: Path = PROC) -> None:
    """Raises LoadError where files of so many bytes would take more memory than is free."""
    free = available(cgroup, proc)
    if free is not None and FACTOR * size > free:
        raise LoadError(
            LoadReason.MEMORY,
            f"{size} bytes of files may take {FACTOR} times as much memory, and {free} bytes are free: "
            "give the server more, or serve fewer versions (version_policy)",
        )


def available(cgroup: Path = CGROUP, proc: Path = PROC) -> int | None:
    """Bytes that this process may still take: of the machine, and of its cgroup, whose file cache can be taken back.
    None where nobody tells."""
    known = [free for free in (_machine(proc), _group(cgroup)) if free is not None]
    return max(0, min(known)) if known else None


def _machine(proc: Path) -> int | None:
    kilobytes = _table(proc / "meminfo").get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _group(cgroup: Path) -> int | None:
    most, used = _number(cgroup / "memory.max"), _number(cgroup / "memory.current")
    if most is None or used is None:
        return None
    return most - used + _table(cgroup / "memory.stat").get("inactive_file", 0)


def _number(path: Path) -> int | None:
    """None for "max", which is no limit, and for a file that is not there."""
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _table(path: Path) -> dict[str, int]:
    with contextlib.suppress(OSError):
        rows = (line.split() for line in path.read_text().splitlines())
        return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
    return {}
