"""Groups of processes that share CPU time equally: cgroups of version 2 or 1 with the cpu controller.

In one group, the scheduler divides time by the priorities of threads. Between groups of equal weight, it divides time
equally, and a priority has no effect.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Group:
    """One cgroup. `folder`: its files."""

    folder: Path

    def enter(self, pid: int) -> None:
        """Move a process with all its threads. Raises OSError."""
        (self.folder / "cgroup.procs").write_text(str(pid))


def home() -> tuple[Path, str] | None:
    """The folder in which this process can make groups, and the version of the cgroups. None if there is none."""
    for folder, version in ((ROOT, "cgroup v2"), (ROOT / "cpu", "cgroup v1"), (ROOT / "cpu,cpuacct", "cgroup v1")):
        if not (folder / "cgroup.procs").exists():
            continue
        with contextlib.suppress(OSError):
            if version == "cgroup v2":
                (folder / "cgroup.subtree_control").write_text("+cpu")
            probe = folder / f"probe-{os.getpid()}"
            probe.mkdir()
            probe.rmdir()
            return folder, version
    return None


@contextlib.contextmanager
def group(parent: Path, name: str) -> Iterator[Group]:
    """A new group, which is removed after the block. The processes in it must have ended then."""
    folder = parent / f"{name}-{os.getpid()}"
    folder.mkdir()
    try:
        yield Group(folder)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def inside(other: Group) -> Iterator[None]:
    """Move this process into a group for the block, and back afterwards. Its children stay in the group."""
    other.enter(os.getpid())
    try:
        yield
    finally:
        (other.folder.parent / "cgroup.procs").write_text(str(os.getpid()))
