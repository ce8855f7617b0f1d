"""Hidden staging folders in a model repository, and the removal of those that a killed export left.

An export locks its staging folder while it runs. The name of the folder holds the machine and the process id. The next
export removes the folders of exports that ended, and so does a server. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from kanexport.shared import safe_files

HIDDEN = ".kanexport-"
OLD = "-old-"  # then the name that it had, in a folder that stepped aside for another
PATIENCE, PAUSE = 60.0, 0.02  # seconds to wait for a lock; between two tries
DAY = 86400.0  # seconds after which one of another machine's is nobody's any more
_mine: set[str] = set()  # what this process works on


def owner() -> str:
    """The owner part of a staging name: the machine and the process id."""
    host = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:32]
    return f"{host}-{os.getpid()}"


@contextlib.contextmanager
def staging_path(parent: Path, old: str = "") -> Iterator[Path]:
    """A path that is not in use. At the end, a file or folder at this path is removed, if it can be. `old`: the path
    of a folder that is replaced."""
    path = parent / f"{HIDDEN}{owner()}-{secrets.token_hex(4)}{OLD + old if old else ''}"
    _mine.add(path.name)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError, MemoryError):  # the next export sweeps
            if os.path.lexists(path):
                remove(path)
        _mine.discard(path.name)


@contextlib.contextmanager
def locked(folder: Path, *, own: bool = False) -> Iterator[int]:
    """Lock a folder, and yield its descriptor. No other export can lock or sweep the folder meanwhile. The wait for
    the lock has a limit. A file system without locks is accepted. `own`: this process created the folder, so the
    path has no link. The release cannot fail, because the work under the lock is done. Raises OSError."""
    descriptor = os.open(folder, safe_files.DIRECTORY | (os.O_NOFOLLOW if own else 0))
    try:
        end = time.monotonic() + PATIENCE
        while not _try_lock(descriptor):
            if time.monotonic() > end:
                raise OSError(errno.EAGAIN, f"another export has locked it for more than {PATIENCE:g} s")
            time.sleep(PAUSE)
        yield descriptor
    finally:
        safe_files.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Whether no other process has the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def sweep(parent: Path) -> list[str]:
    """Remove the folders that ended exports left in a folder. A folder that was moved aside for a version that did
    not appear is moved back. Returns the names that were there. A folder that cannot be removed stays, and is not
    listed."""
    try:
        hidden = sorted(path for path in parent.iterdir() if path.name.startswith(HIDDEN))
    except OSError:
        return []
    swept = []
    for path in hidden:
        if _alive(path):
            continue
        old = path.name.partition(OLD)[2]
        with contextlib.suppress(OSError):
            if old and not os.path.lexists(parent / old):
                os.rename(path, parent / old)
            else:
                remove(path)
            swept.append(path.name)
    return swept


def remove(path: Path) -> None:
    """Remove a folder with its contents, or a link. Raises OSError."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _alive(path: Path) -> bool:
    """Whether a process still uses the folder: it has the lock, or runs on this machine, or may run on another
    machine."""
    host, _, rest = path.name.removeprefix(HIDDEN).partition("-")
    pid = rest.partition("-")[0]
    if _is_locked(path):
        return True
    if host == owner().rpartition("-")[0] and pid.isdecimal():
        return path.name in _mine if int(pid) == os.getpid() else Path(f"/proc/{pid}").exists()
    with contextlib.suppress(OSError):
        return time.time() - path.lstat().st_mtime < DAY
    return False


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)
