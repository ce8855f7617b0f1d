"""Files of a scoring run: inputs by pattern, and a folder of results in which a file appears only as a whole. Local
paths, and URLs of object stores (`s3://`, `gs://`, `az://`, `https://`) through obstore. The query of a web URL may be
a signature, so no message and no record has it.

The folder of results has a folder `_score`: `run.json` says which model and options wrote it, and one document for each
finished file says from which input, and how large the result is. A run that continues skips these files. Unfinished
files are in this folder too. Readers of tables ignore names that begin with an underscore.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import glob
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from kanexport.shared import atomic, safe_files
from kanexport.shared.cli.suggest import how_to_install
from kanserve.errors import BadRequest, ConfigError

URL = re.compile(r"[a-z][a-z0-9+]*://")
WEB = ("http://", "https://")
QUERY = re.compile(r"(https?://[^\s?]*)\?\S*")  # a web URL with its query
MAGIC = re.compile(r"[*?\[]")
RECORDS, RUN = "_score", "_score/run.json"
UNFINISHED = re.compile(f"{RECORDS}/{re.escape(safe_files.UNFINISHED)}[0-9a-f]{{16}}")
RECORD_BYTES = 2**20  # largest size of a document
NAMES_SHOWN = 3  # names in an error


@dataclass(frozen=True, slots=True)
class Input:
    """File to score.

    place   its path or URL, for messages
    name    its name below the common folder, such as "2026/part-1.parquet"; the result gets this name
    size    bytes
    tag     changes with the content: the modification time, or the entity tag of a store
    opened  opens it, with random access
    """

    place: str
    name: str
    size: int
    tag: str
    opened: Callable[[], BinaryIO]


def inputs(patterns: Sequence[str], suffixes: Sequence[str], output: str = "") -> list[Input]:
    """The files of paths, folders, patterns and URLs, each once, in the order of `patterns` and by name.

    suffixes  endings of the files that a folder or a pattern selects
    output    folder or URL of the results

    Raises BadRequest if no file fits, if two results would have the same name, or if a folder of `patterns` contains
    `output`. Raises OSError.
    """
    files: dict[str, Input] = {}
    for pattern in patterns:
        within = _inside(output, pattern, folders=True) if output else None
        if within is not None and not _hidden(within):
            raise _read_again(output, pattern)
        several = list(_remote(pattern, suffixes) if URL.match(pattern) else _local(pattern, suffixes))
        if not several:
            raise BadRequest(
                f"no file fits {_shown(pattern)}",
                code="input-not-found",
                hint=f"pass files, a folder or a pattern; a folder selects {', '.join(suffixes)}",
            )
        for item in several:
            known = files.setdefault(item.place, item)
            if (known.size, known.tag) != (item.size, item.tag):
                raise BadRequest(
                    f"{item.place} was found twice, with different content",
                    code="input-names-equal",
                    hint="pass each file once; a URL with another query is another run",
                )
            files[item.place] = item
            if output and _inside(item.place, output) is not None:
                raise _read_again(output, item.place)
            if {"", ".", ".."} & set(item.name.split("/")):
                raise BadRequest(
                    f"the result of {item.place} would be {item.name}, outside of the output folder",
                    code="input-name-unsafe",
                    hint="pass the folder, or a pattern without .. after its first * or ?",
                )
    named: dict[str, str] = {}
    for item in files.values():
        stem = item.name.rpartition(".")[0] or item.name
        if stem in named:
            raise BadRequest(
                f"{named[stem]} and {item.place} would have the same result {stem}",
                code="input-names-equal",
                hint="pass their common folder, so that the results get its subfolders, or run the command for each",
            )
        named[stem] = item.place
    return list(files.values())


def _inside(place: str, folder: str, *, folders: bool = False) -> tuple[str, ...] | None:
    """The parts of a path or URL below a folder; None if it is outside. `folders`: None also if `folder` is not one."""
    if URL.match(place) or URL.match(folder):
        base = _shown(folder).rstrip("/") + "/"
        within = f"{_shown(place)}/".startswith(base) and not (folders and not folder.endswith("/"))
        return tuple(filter(None, place[len(base) :].split("/"))) if within else None
    if folders and not Path(folder).is_dir():
        return None
    whole, base_path = Path(place).resolve(), Path(folder).resolve()
    return whole.relative_to(base_path).parts if whole.is_relative_to(base_path) else None


def _read_again(output: str, source: str) -> BadRequest:
    return BadRequest(
        f"the output folder {_shown(output)} and the input {_shown(source)} overlap, so a run would read results",
        code="output-in-input",
        hint="pass an output folder outside of the input, or one whose name begins with _",
    )


def _local(pattern: str, suffixes: Sequence[str]) -> Iterator[Input]:
    path, magic = Path(pattern), MAGIC.search(pattern)
    if path.is_dir():
        base, paths = path, [each for each in path.rglob("*") if each.suffix.lower() in suffixes]
        paths = [each for each in paths if not _hidden(each.relative_to(path).parts)]
    elif path.exists():
        base, paths = path.parent, [path]
    elif magic is not None:
        base = Path(os.path.dirname(pattern[: magic.start()]))
        paths = list(map(Path, glob.glob(pattern, recursive=True)))
    else:
        return
    for each in filter(Path.is_file, sorted(paths)):
        yield _of_path(each, str(each.relative_to(base)))


def _of_path(path: Path, name: str) -> Input:
    about = path.stat()
    return Input(str(path), name, about.st_size, f"{about.st_mtime_ns}", lambda: path.open("rb"))


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(("_", ".")) for part in parts)


def _remote(url: str, suffixes: Sequence[str]) -> Iterator[Input]:
    address, query = _shown(url), url.partition("?")[2] if url.startswith(WEB) else ""
    base, tail, single = _divided(address)
    store = _store(f"{base}?{query}" if query else base)
    with _readable_errors(address):
        if single:
            with contextlib.suppress(FileNotFoundError):
                # A signed URL permits one method, GET.
                first = {"range": (0, 1)}
                about = _obstore().get(store, tail, options=first).meta if query else _obstore().head(store, tail)
                yield _of_object(store, base, about)
            return
        from obstore.exceptions import BaseError

        try:
            objects = [item for batch in _obstore().list(store) for item in batch]
        except BaseError as error:
            if "404 Not Found" not in str(error):
                raise
            raise BadRequest(
                f"{address}: the store has no such bucket (404 Not Found)",
                code="input-not-found",
                hint="correct the bucket, or the address of the store in its environment variables",
            ) from error
    for item in sorted(objects, key=lambda item: str(item["path"])):
        name = item["path"]
        selected = fnmatch.fnmatchcase(name, tail) if tail else name.lower().endswith(tuple(suffixes))
        if selected and not _hidden(name.split("/")):
            yield _of_object(store, base, item)


def _shown(url: str) -> str:
    """A path or URL for messages and records."""
    return url.partition("?")[0] if url.startswith(WEB) else url


def _divided(url: str) -> tuple[str, str, bool]:
    """A URL as its fixed part, the rest, and whether the rest is one name. A web server lists no files, and its paths
    may have any characters, some of them escaped."""
    scheme, _, rest = url.partition("://")
    parts, lists = rest.split("/"), not url.startswith(WEB)
    fixed = next((at for at, part in enumerate(parts) if lists and MAGIC.search(part)), len(parts) - 1)
    tail = "/".join(parts[fixed:]) if lists else unquote(parts[-1])
    return f"{scheme}://{'/'.join(parts[:fixed])}", tail, not lists or bool(tail and not MAGIC.search(tail))


def _of_object(store: Any, base: str, item: Any) -> Input:
    name, size, tag = item["path"], int(item["size"]), item.get("e_tag") or str(item["last_modified"])
    place = f"{base}/{name}"
    return Input(place, name, size, tag, lambda: io.BufferedReader(_Object(store, name, size, tag, place), 2**16))


class _Object(io.RawIOBase):
    """Object of a store as a file with random access. All reads must see the object that the run has listed."""

    def __init__(self, store: Any, name: str, size: int, tag: str, place: str) -> None:
        self._store, self._name, self._size, self._tag, self._place, self._at = store, name, size, tag, place, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._size - self._at)
        if count <= 0:
            return 0
        options = {"range": (self._at, self._at + count)} | ({"if_match": self._tag} if '"' in self._tag else {})
        with _readable_errors(self._place):
            data = _obstore().get(self._store, self._name, options=options).bytes()
        if len(data) != count:
            raise OSError(None, f"the store sent {len(data)} bytes, expected {count}", self._place)
        buffer[:count] = memoryview(data)
        self._at += count
        return count


class _Upload(io.RawIOBase):
    """Upload to a store as a file. Its end does not complete the upload."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._writer.write(bytes(data))
        return len(data)


class _LocalFolder:
    """Folder of results on this machine."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.place, self._path = str(path), path

    def names(self) -> list[str]:
        """Names of the files in the folder."""
        paths = (path for path in self._path.rglob("*") if path.is_symlink() or not path.is_dir())
        names = (str(path.relative_to(self._path)) for path in paths)
        return sorted(name for name in names if not UNFINISHED.fullmatch(name))

    def clean(self) -> None:
        """Remove unfinished files of runs that were killed. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), self._within(RECORDS) as folder:
            for name in os.listdir(folder):
                if UNFINISHED.fullmatch(f"{RECORDS}/{name}"):
                    os.unlink(name, dir_fd=folder)

    def size(self, name: str) -> int | None:
        """The size of a file in bytes; None if it does not exist, or is a link. Raises OSError."""
        parent, _, last = name.rpartition("/")
        with contextlib.suppress(FileNotFoundError), self._within(parent) as folder:
            about = os.stat(last, dir_fd=folder, follow_symlinks=False)
            return about.st_size if stat.S_ISREG(about.st_mode) else None
        return None

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if it does not exist. Raises OSError."""
        parent, _, last = name.rpartition("/")
        with contextlib.suppress(FileNotFoundError), self._within(parent) as folder:
            return safe_files.read(last, RECORD_BYTES, within=folder, called=self._path / name)
        return None

    @contextlib.contextmanager
    def _within(self, inner: str, *, make: bool = False) -> Iterator[int]:
        """The descriptor of a folder in this one. No link on the way to it is followed. Raises OSError."""
        with contextlib.ExitStack() as stack:
            folder, path = stack.enter_context(safe_files.directory(self._path, links=True)), self._path
            for part in filter(None, inner.split("/")):
                path /= part
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                folder = stack.enter_context(safe_files.directory(part, within=folder, called=path))
            yield folder

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """A file that replaces `name`, a regular file, if the block ends without an error. Raises OSError."""
        parent, _, last = name.rpartition("/")
        with self._within(RECORDS, make=True) as records, self._within(parent, make=True) as folder:
            with contextlib.suppress(FileNotFoundError):
                about = os.stat(last, dir_fd=folder, follow_symlinks=False)
                safe_files.check_regular(self._path / name, about)
            temporary = f"{safe_files.UNFINISHED}{secrets.token_hex(8)}"
            descriptor = os.open(temporary, safe_files.CREATE, 0o666, dir_fd=records)
            try:
                with atomic.file_over(descriptor, "wb") as file:
                    yield file
                    file.flush()
                    os.fsync(descriptor)
                os.replace(temporary, last, src_dir_fd=records, dst_dir_fd=folder)
            finally:
                with contextlib.suppress(FileNotFoundError):  # after the rename
                    os.unlink(temporary, dir_fd=records)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context in which no other run on this machine writes to the folder, by a lock on the folder. Raises
        BadRequest."""
        with safe_files.directory(self._path, links=True) as descriptor:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadRequest(
                    f"another run writes to {self.place}",
                    code="output-in-use",
                    hint="wait until it ends, or pass another folder",
                ) from None
            except OSError:  # a file system without locks
                pass
            yield


class _RemoteFolder:
    """Folder of results in an object store, with the methods of `_LocalFolder`. It has no lock."""

    def __init__(self, url: str) -> None:
        self.place, self._store = url, _store(url)

    def names(self) -> list[str]:
        """See `_LocalFolder.names`."""
        with _readable_errors(self.place):
            return sorted(item["path"] for batch in _obstore().list(self._store) for item in batch)

    def clean(self) -> None:
        """See `_LocalFolder.clean`. A store has no unfinished files."""

    def size(self, name: str) -> int | None:
        """See `_LocalFolder.size`."""
        with _readable_errors(f"{self.place}/{name}"), contextlib.suppress(FileNotFoundError):
            return int(_obstore().head(self._store, name)["size"])
        return None

    def read(self, name: str) -> bytes | None:
        """See `_LocalFolder.read`."""
        with _readable_errors(f"{self.place}/{name}"), contextlib.suppress(FileNotFoundError):
            return bytes(_obstore().get(self._store, name).bytes())
        return None

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """See `_LocalFolder.opened`. The store shows an object only after the whole upload."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_readable_errors(f"{self.place}/{name}"))
            upload = stack.enter_context(_obstore().open_writer(self._store, name))
            yield stack.enter_context(io.BufferedWriter(_Upload(upload), 2**20))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See `_LocalFolder.locked`."""
        yield


Output = _LocalFolder | _RemoteFolder


def output(place: str) -> Output:
    """The folder of results; a local one is created. Raises OSError, BadRequest and ConfigError."""
    return _RemoteFolder(place.rstrip("/")) if URL.match(place) else _LocalFolder(Path(place))


def _obstore() -> Any:
    try:
        import obstore
    except ImportError as error:
        raise ConfigError(
            "URLs of object stores need the Python package obstore, which is not installed",
            code="package-not-installed",
            hint=f"{how_to_install('stores')}, or copy the files to this machine",
        ) from error
    return obstore


def _store(url: str) -> Any:
    """The store of a URL, with the credentials of its environment variables. Raises BadRequest."""
    _obstore()
    from obstore import store
    from obstore.exceptions import BaseError

    options = {"client_options": {"allow_http": True}} if url.startswith("http://") else {}
    try:
        return store.from_url(url, **options)
    except (BaseError, ValueError) as error:
        raise BadRequest(
            f"{_shown(url)} is not a URL of a store: {_first(error)}",
            code="store-url-invalid",
            hint="pass s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or https://HOST/PATH",
        ) from error


@contextlib.contextmanager
def _readable_errors(place: str) -> Iterator[None]:
    """Turn errors of obstore into OSError with one line of text and the place. A missing object stays
    FileNotFoundError."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, _first(error), place) from error
    except BaseError as error:
        raise OSError(None, _first(error), place) from error


def _first(error: Exception) -> str:
    return QUERY.sub(r"\1", next(iter(str(error).splitlines()), type(error).__name__))[:300]


@dataclass(frozen=True, slots=True)
class Journal:
    """Records of a run in its folder of results.

    output       the folder
    fingerprint  model, content and options that give the results
    """

    output: Output
    fingerprint: dict[str, Any]

    def begin(self, *, overwrite: bool) -> None:
        """Start or continue a run. Raises BadRequest if the folder has files of something else, unless `overwrite`. A
        run that finished no file leaves only records, which the next run replaces."""
        names = [name for name in self.output.names() if not name.startswith(f"{RECORDS}/")]
        written = self._document(RUN)
        if written != self.fingerprint and names and not overwrite:
            if written is None:
                why = f"it has {len(names)} files, such as {', '.join(names[:NAMES_SHOWN])}"
            else:
                other = (key for key, value in self.fingerprint.items() if written.get(key) != value)
                why = f"a run with another {' and '.join(other)} wrote it"
            raise BadRequest(
                f"the folder {self.output.place} is not empty: {why}",
                code="output-not-empty",
                hint="pass another folder, or --overwrite to replace the results",
            )
        self.output.clean()
        if written != self.fingerprint:
            self._write(RUN, self.fingerprint)

    def finished(self, name: str, source: Input) -> dict[str, Any] | None:
        """The record of a finished result that is there, and whose input has not changed; otherwise None."""
        record = self._document(self._record(name))
        if record is None or record.get("run") != self.fingerprint or record.get("input") != _facts(source):
            return None
        numbers = [record.get(key) for key in ("rows", "rows_out_of_range", "size")]
        if any(number is not None and not isinstance(number, int) for number in numbers) or numbers[-1] is None:
            return None
        return record if self.output.size(name) == numbers[-1] else None

    def finish(self, name: str, source: Input, counts: dict[str, Any]) -> None:
        """Record a finished result. Raises OSError."""
        record = {"input": _facts(source), **counts, "size": self.output.size(name), "run": self.fingerprint}
        self._write(self._record(name), record)

    @staticmethod
    def _record(name: str) -> str:
        return f"{RECORDS}/{name}.json"

    def _document(self, name: str) -> dict[str, Any] | None:
        data = self.output.read(name)
        with contextlib.suppress(ValueError, RecursionError):
            document = None if data is None else json.loads(data)
            return document if isinstance(document, dict) else None
        return None

    def _write(self, name: str, document: dict[str, Any]) -> None:
        with self.output.opened(name) as file:
            file.write(json.dumps(document, indent=1).encode())


def _facts(source: Input) -> dict[str, Any]:
    return {"place": source.place, "size": source.size, "tag": source.tag}
