"""Files opened by name in folders that other users can write. Other users do not decide which file the program
opens, how long that takes or how much it reads. Standard library only.

There are three classes, by the party that chose the target of the name (docs/explanation/security-model.md):

    named   the user names the file (settings, tokens, certificates, rows): the program follows links
    found   others filled the folder (a model repository): the program follows no link
    owned   the program made the file (statistics, tokens that a command writes, files that an export stages): the
            program follows no link, and the file has one name. The file and its directory belong to this user or root,
            and others cannot write the directory.

The program reads only regular files, and checks them before it opens them: opening a device can have effects, and
opening a FIFO can block forever. Every read has a limit. `UnsafeFile` names the kind of file that was found.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from kanexport.shared import atomic

Data = bytes | memoryview

READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
APPEND = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
OWN_FILE, OWN_FOLDER = 0o600, 0o700  # modes
UNFINISHED = ".kanserve-"  # prefix of the names of unfinished files
OPEN_ALREADY = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
ANY = 2**35  # largest size of a file that a person names for a command of their own
PIECE = 2**24  # bytes that a copy holds at a time
KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
LINKED = "is a symbolic link, expected a regular file"


class UnsafeFile(OSError):
    """File or directory that fails a safety check.

    reason  the rest of a sentence that begins with its name, such as "is a FIFO"
    names   the number of names of a file with hard links, otherwise 0
    code    stable id of the error
    hint    the action that solves the problem, or empty
    """

    def __init__(
        self, path: str | os.PathLike[str], reason: str, names: int = 0, *, code: str = "file-unsafe", hint: str = ""
    ) -> None:
        super().__init__(errno.EPERM, f"it {reason}", os.fspath(path))
        self.reason, self.names, self.code, self.hint = reason, names, code, hint


def read(
    path: str | os.PathLike[str],
    most: int,
    *,
    within: int | None = None,
    links: bool = False,
    hard_links: bool = True,
    expected: int | None = None,
    inspect: Callable[[os.stat_result], None] | None = None,
    called: str | os.PathLike[str] = "",
) -> bytes:
    """Read all bytes of a regular file. Raises UnsafeFile and other OSError.

    most      the largest size, in bytes
    within    the descriptor of its directory
    links     follow a symbolic link
    expected  the size that it must have
    inspect   receives its facts before the read
    called    its name in errors
    """
    called = called or path
    check_regular(called, os.stat(path, dir_fd=within, follow_symlinks=links), hard_links=hard_links)
    descriptor = os.open(path, READ if links else READ | os.O_NOFOLLOW, dir_fd=within)
    try:
        about = os.fstat(descriptor)
        check_regular(called, about, hard_links=hard_links)
        if inspect is not None:
            inspect(about)
        return _drained(descriptor, called, about.st_size, most, expected)
    finally:
        close(descriptor)


def close(descriptor: int) -> None:
    """Close a descriptor that was only read. An error is ignored: the work is done."""
    with contextlib.suppress(OSError):
        os.close(descriptor)


def beginning(path: Path, most: int) -> bytes:
    """The first bytes, at most `most`, of a regular file in a folder that other users can write. A link is rejected.
    Raises UnsafeFile, OSError."""
    check_regular(path, path.lstat())
    descriptor = os.open(path, READ | os.O_NOFOLLOW)
    try:
        check_regular(path, os.fstat(descriptor))
        return os.read(descriptor, most)
    finally:
        close(descriptor)


def first_line(path: str, most: int) -> bytes:
    """The first line of a file that the user names. A file that is open already (/dev/stdin, `<(command)` of a shell)
    is read as a stream. Raises UnsafeFile, OSError."""
    if path.startswith(OPEN_ALREADY):
        with open(path, "rb", buffering=0) as file:
            return file.readline(most)
    return read(path, most, links=True).partition(b"\n")[0]


def check_regular(path: str | os.PathLike[str], about: os.stat_result, *, hard_links: bool = True) -> None:
    """Raises UnsafeFile for a file that is not regular, or that has several names if `hard_links` is false."""
    if stat.S_ISLNK(about.st_mode):
        raise UnsafeFile(path, LINKED, code="file-not-regular", hint="replace the link with the file")
    if not stat.S_ISREG(about.st_mode):
        raise UnsafeFile(
            path,
            f"is not a regular file but {KINDS.get(stat.S_IFMT(about.st_mode), 'a file of another kind')}",
            code="file-not-regular",
            hint="name a regular file",
        )
    if about.st_nlink > 1 and not hard_links:
        raise UnsafeFile(
            path,
            f"is a hard link, a file with {about.st_nlink} names",
            about.st_nlink,
            code="file-has-hard-links",
            hint="copy the file, so that it has one name",
        )


def _drained(descriptor: int, path: str | os.PathLike[str], size: int, most: int, expected: int | None) -> bytes:
    """All bytes in one piece, so that memory does not hold a large file twice. A file system may return less than a
    read requests."""
    if size > most:
        raise UnsafeFile(path, f"has {size} bytes, expected at most {most}", code="file-too-large")
    if expected is not None and size != expected:
        raise UnsafeFile(
            path,
            f"has {size} bytes, the manifest says {expected}",
            code="file-size-differs",
            hint="copy the version again, or export the model again",
        )
    try:
        data = os.read(descriptor, size + 1)
    except MemoryError:
        raise UnsafeFile(
            path,
            f"has {size} bytes, more than the free memory",
            code="file-larger-than-memory",
            hint="raise the memory limit of the process",
        ) from None
    while len(data) <= size and (more := os.read(descriptor, size + 1 - len(data))):
        data += more
    if len(data) != size:
        raise UnsafeFile(
            path,
            f"{'grew' if len(data) > size else 'shrank'} while it was read",
            code="file-changed-while-read",
            hint="run the command again after the file is complete",
        )
    return data


def create(
    name: str | os.PathLike[str],
    parts: Sequence[Data],
    *,
    mode: int,
    within: int | None = None,
    owner: tuple[int, int] | None = None,
) -> None:
    """Create a file that does not exist yet, and flush it to disk. The umask applies to `mode`. `owner`: the user
    and group that the file gets, if this user may set them; `mode` is exact then. Raises OSError, and may then leave
    an unfinished file."""
    descriptor = os.open(name, CREATE, mode, dir_fd=within)
    with atomic.file_over(descriptor, "wb") as file:
        if owner is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
        file.writelines(parts)
        file.flush()
        os.fsync(descriptor)


@contextlib.contextmanager
def directory(
    path: str | os.PathLike[str],
    *,
    within: int | None = None,
    links: bool = False,
    called: str | os.PathLike[str] = "",
) -> Iterator[int]:
    """The descriptor of a directory. `links`: follow a link in the last part of the path. `called`: its name in
    errors. Raises UnsafeFile, OSError."""
    flags = DIRECTORY if links else DIRECTORY | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, dir_fd=within)
    except NotADirectoryError:  # Linux raises it for a link too
        kind = stat.S_IFMT(os.stat(path, dir_fd=within, follow_symlinks=False).st_mode)
        raise UnsafeFile(
            called or path,
            f"is {KINDS.get(kind, 'a file')}, expected a directory",
            code="directory-expected",
            hint="name a directory, not a link to one",
        ) from None
    try:
        yield descriptor
    finally:
        close(descriptor)


def copy(name: str, source: int, target: int) -> None:
    """Copy a file, a link, or a directory with its contents from one open directory into another. Raises UnsafeFile for
    other kinds of files, and OSError."""
    about = os.stat(name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISLNK(about.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISDIR(about.st_mode):
        os.mkdir(name, stat.S_IMODE(about.st_mode) | stat.S_IRWXU, dir_fd=target)
        with directory(name, within=source) as source_folder, directory(name, within=target) as target_folder:
            for inner in os.listdir(source_folder):
                copy(inner, source_folder, target_folder)
    else:
        check_regular(name, about)
        descriptor = os.open(name, READ | os.O_NOFOLLOW, dir_fd=source)
        with atomic.file_over(descriptor, "rb") as old:
            about = os.fstat(descriptor)
            check_regular(name, about)
            with atomic.file_over(os.open(name, CREATE, stat.S_IMODE(about.st_mode), dir_fd=target), "wb") as new:
                while piece := old.read(PIECE):
                    new.write(piece)
                new.flush()
                os.fsync(new.fileno())
                os.utime(new.fileno(), ns=(about.st_atime_ns, about.st_mtime_ns))


class Folder:
    """Directory for files that the program owns: `root`, named by the user, and folders in it. Each use opens it step
    by step, so that the program notices a directory that another user replaced."""

    def __init__(self, root: Path, *inner: str, shared: bool = False) -> None:
        """`shared`: the user keeps other files in `root` too. The program follows links on the path to it, and does
        not create it if it is missing. Other users may create files in it if they cannot rename those of this user,
        as in /tmp."""
        self._root, self._inner, self._shared = root, inner, shared

    @property
    def path(self) -> Path:
        """The path, for messages."""
        return self._root.joinpath(*self._inner)

    def names(self) -> list[str]:
        """The sorted names in the directory; empty if it does not exist. Raises UnsafeFile, OSError."""
        with contextlib.suppress(FileNotFoundError), self._opened(make=False) as descriptor:
            return sorted(name for name in os.listdir(descriptor) if not name.startswith(UNFINISHED))
        return []

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a file of at most `most` bytes. Raises UnsafeFile, OSError."""
        with self._opened(make=False) as descriptor:
            self._check(name, descriptor)
            return read(name, most, within=descriptor, hard_links=False, called=self.path / name)

    def write(self, name: str, data: Data, *, mode: int = OWN_FILE, owner: tuple[int, int] | None = None) -> None:
        """Write `data` to a file, whole or not at all, and replace an existing file. `owner`: see `create`. Raises
        UnsafeFile, OSError."""
        with self._opened(make=True) as descriptor:
            with contextlib.suppress(FileNotFoundError):
                self._check(name, descriptor)
            temporary = f"{UNFINISHED}{secrets.token_hex(8)}"
            try:
                create(temporary, [data], mode=mode, within=descriptor, owner=owner)
                os.replace(temporary, name, src_dir_fd=descriptor, dst_dir_fd=descriptor)
            finally:
                with contextlib.suppress(FileNotFoundError):  # the rename has moved it
                    os.unlink(temporary, dir_fd=descriptor)

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[BinaryIO]:
        """A new file to write to, which other users cannot read. It is removed if the block fails. Raises
        FileExistsError, UnsafeFile, OSError."""
        with self._opened(make=True) as within:
            descriptor = os.open(name, CREATE, OWN_FILE, dir_fd=within)
            with contextlib.ExitStack() as undo:
                undo.callback(os.unlink, name, dir_fd=within)
                with atomic.file_over(descriptor, "wb") as file:
                    yield file
                undo.pop_all()

    @contextlib.contextmanager
    def append(self, name: str) -> Iterator[int]:
        """The descriptor of a file for reading and appending. The file is created if it is missing. Raises UnsafeFile,
        OSError."""
        with self._opened(make=True) as within:
            try:
                self._check(name, within)
                descriptor = os.open(name, APPEND, dir_fd=within)
            except FileNotFoundError:
                descriptor = os.open(name, APPEND | os.O_CREAT | os.O_EXCL, OWN_FILE, dir_fd=within)
            try:
                self._check_owned(name, os.fstat(descriptor), within)
                yield descriptor
            finally:
                close(descriptor)

    def check(self, name: str = "") -> None:
        """Check that this directory is safe for such files, and that the file `name` in it is one. It creates
        nothing. Raises UnsafeFile, FileNotFoundError, other OSError."""
        with self._opened(make=False) as descriptor:
            if name:
                self._check(name, descriptor)

    @contextlib.contextmanager
    def _opened(self, *, make: bool) -> Iterator[int]:
        if make and not self._shared:
            with contextlib.suppress(FileExistsError):  # `directory` names what is there instead
                self._root.mkdir(OWN_FOLDER, parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            current = stack.enter_context(directory(self._root, links=self._shared))
            check_folder(self._root, os.fstat(current), shared=self._shared)
            for at, step in enumerate(self._inner, 1):
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(step, OWN_FOLDER, dir_fd=current)
                path = self._root.joinpath(*self._inner[:at])
                current = stack.enter_context(directory(step, within=current, called=path))
                check_folder(path, os.fstat(current))
            yield current

    def _check(self, name: str, within: int) -> None:
        self._check_owned(name, os.stat(name, dir_fd=within, follow_symlinks=False), within)

    def _check_owned(self, name: str, about: os.stat_result, within: int) -> None:
        path = self.path / name
        check_regular(path, about, hard_links=False)
        # Root may change a user's files in that user's own directory, because the user can change them as well.
        more = {os.fstat(within).st_uid} if self._shared and os.geteuid() == 0 else set()
        if about.st_uid not in _trusted() | more:
            raise UnsafeFile(path, _foreign(about.st_uid), code="file-owner-not-trusted", hint=CHANGE_OWNER)


def check_folder(path: str | os.PathLike[str], about: os.stat_result, *, shared: bool = False) -> None:
    """Raises UnsafeFile for a directory in which another user could create or replace files. `shared`: see Folder."""
    mode = about.st_mode
    if mode & stat.S_IWOTH and not (shared and mode & stat.S_ISVTX):
        raise UnsafeFile(
            path,
            f"can be written by everyone (mode {stat.S_IMODE(mode):o}): chmod o-w, or name a directory in it",
            code="directory-open-to-others",
            hint="run chmod o-w on the directory, or name a directory in it",
        )
    if mode & stat.S_IWGRP and about.st_gid not in {os.getegid(), *os.getgroups()} and not (mode & stat.S_ISVTX):
        raise UnsafeFile(
            path,
            f"can be written by group {about.st_gid}, which this process is not in: chmod g-w",
            code="directory-open-to-others",
            hint="run chmod g-w on the directory",
        )
    if about.st_uid not in _trusted() and not (shared and os.geteuid() == 0):
        raise UnsafeFile(path, _foreign(about.st_uid), code="file-owner-not-trusted", hint=CHANGE_OWNER)


CHANGE_OWNER = "change the owner with chown, or name another directory"


def _trusted() -> set[int]:
    """Users whose files the program trusts as it trusts those of the user that runs it."""
    return {os.geteuid(), 0}


def _foreign(user: int) -> str:
    return f"belongs to user {user}, expected {os.geteuid()} or root"
