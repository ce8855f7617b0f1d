"""Atomic file replacement and exchange of two names. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV)  # as NFS, or a folder of an image's lower layer
LIVE = ("/dev/", "/proc/")  # names of what is open already, such as /dev/stdout


def write(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Replace the file `path` with `data`. Raises OSError; then the old file is as it was.

    The mode is that of any new file under the umask, or `mode`. A link keeps pointing to the file, which is replaced. A
    path that is not a regular file, such as a pipe, is written to.
    """
    with opened(path, mode=mode) as file:
        file.write(data)


@contextlib.contextmanager
def opened(path: Path, *, mode: int | None = None) -> Iterator[BinaryIO]:
    """The same as `write`, for data in several parts: the file appears if the block ends without an error."""
    if str(path).startswith(LIVE) or (path.exists() and not path.is_file() and not path.is_dir()):
        with path.open("wb") as special:
            yield special
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".kanserve-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        with file_over(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):  # after the rename
            os.unlink(temporary)


def file_over(descriptor: int, mode: str) -> BinaryIO:
    """A file over a descriptor. If the file cannot be made, the descriptor is closed."""
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, descriptor)
        file = typing.cast("BinaryIO", os.fdopen(descriptor, mode))
        cleanup.pop_all()
        return file


def check(path: Path) -> str:
    """The reason why `write` cannot write this path, or "". A command checks it before long work."""
    if path.is_dir():
        return f"{path} is a folder, expected a file"
    return "" if path.parent.is_dir() else f"the folder {path.parent} does not exist"


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step. False if this system or this file system does not support it. Raises OSError."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))
