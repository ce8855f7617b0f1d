"""Files of a scoring run: inputs by pattern, and a folder of results in which a file appears only as a whole. Local
paths, and URLs of object stores (`s3://`, `gs://`, `az://`, `https://`) through obstore. The query of a web URL may be
a signature, so no message and no record has it.

The folder of results has a folder `_score`: `run.json` says which model and options wrote it, and one document for each
finished file says from which input. A run that continues skips these files. Readers of tables ignore names that begin
with an underscore.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import unquote

from kanexport.contract import atomic, safe_files
from kanexport.contract.cli.suggest import how_to_install
from kanserve.errors import BadRequest, ConfigError

URL = re.compile(r"[a-z][a-z0-9+]*://")
WEB = ("http://", "https://")
QUERY = re.compile(r"(https?://[^\s?]*)\?\S*")  # a web URL with its query
MAGIC = re.compile(r"[*?\[]")
RECORDS, RUN = "_score", "_score/run.json"
RECORD_BYTES = 2**20  # largest size of a document
SIZE_SHOWN = 3  # names in an error


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


class Output(Protocol):
    """Folder of results."""

    place: str

    def names(self) -> list[str]:
        """Names of the files in the folder."""

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if it does not exist. Raises OSError."""

    def opened(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file that replaces `name` if the block ends without an error. Raises OSError."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Context in which no other run on this machine writes to the folder. Raises BadRequest."""


def inputs(patterns: Sequence[str], suffixes: Sequence[str]) -> list[Input]:
    """The files of paths, folders, patterns and URLs, each once, in the order of `patterns` and by name. `suffixes`:
    endings of the files that a folder or a pattern selects. Raises BadRequest if there is none, or if two would have
    one name. Raises OSError."""
    files: dict[str, Input] = {}
    for pattern in patterns:
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


def _local(pattern: str, suffixes: Sequence[str]) -> Iterator[Input]:
    path, magic = Path(pattern), MAGIC.search(pattern)
    if path.is_dir():
        base, paths = path, _tables(path, suffixes)
    elif path.exists():
        base, paths = path.parent, [path]
    elif magic is not None:
        base, paths = (
            Path(os.path.dirname(pattern[: magic.start()])),
            list(map(Path, glob.glob(pattern, recursive=True))),
        )
    else:
        return
    for each in sorted(paths):
        if each.is_file():
            yield _of_path(each, str(each.relative_to(base)))


def _tables(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files in a folder with one of these suffixes, except for hidden ones."""
    return [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and not _hidden(path.relative_to(folder).parts)
    ]


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(("_", ".")) for part in parts)


def _of_path(path: Path, name: str) -> Input:
    about = path.stat()
    return Input(str(path), name, about.st_size, f"{about.st_mtime_ns}", lambda: path.open("rb"))


def _remote(url: str, suffixes: Sequence[str]) -> Iterator[Input]:
    address, query = _shown(url), url.partition("?")[2] if url.startswith(WEB) else ""
    base, tail, single = _divided(address)
    store = _store(f"{base}?{query}" if query else base)
    with _readable_errors(address):
        if single:
            with contextlib.suppress(FileNotFoundError):
                yield _of_object(store, base, _about(store, tail, signed=bool(query)))
            return
        listed = _listed(store, address)
    for item in sorted(listed, key=lambda item: str(item["path"])):
        if _fits(item["path"], tail, suffixes):
            yield _of_object(store, base, item)


def _about(store: Any, name: str, *, signed: bool) -> Any:
    """Size, entity tag and time of an object. A signed URL permits one method, GET."""
    if signed:
        return _obstore().get(store, name, options={"range": (0, 1)}).meta
    return _obstore().head(store, name)


def _listed(store: Any, url: str) -> list[Any]:
    """The objects of a store. Raises BadRequest if its bucket does not exist."""
    from obstore.exceptions import BaseError

    try:
        return [item for batch in _obstore().list(store) for item in batch]
    except BaseError as error:
        if "404 Not Found" not in str(error):
            raise
        raise BadRequest(
            f"{url}: the store has no such bucket (404 Not Found)",
            code="input-not-found",
            hint="correct the bucket, or the address of the store in its environment variables",
        ) from error


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


def _fits(name: str, pattern: str, suffixes: Sequence[str]) -> bool:
    selected = fnmatch.fnmatchcase(name, pattern) if pattern else name.lower().endswith(tuple(suffixes))
    return selected and not _hidden(name.split("/"))


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


def output(place: str) -> Output:
    """The folder of results; a local one is created. Raises OSError, BadRequest and ConfigError."""
    return _RemoteFolder(place.rstrip("/")) if URL.match(place) else _LocalFolder(Path(place))


class _LocalFolder:
    """Folder on this machine."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.place, self._path = str(path), path

    def names(self) -> list[str]:
        """See `Output.names`. It removes unfinished files of runs that were killed."""
        files = [path for path in self._path.rglob("*") if path.is_file()]
        for path in files:
            if path.name.startswith(safe_files.UNFINISHED):
                path.unlink(missing_ok=True)
        return sorted(str(path.relative_to(self._path)) for path in files if path.exists())

    def read(self, name: str) -> bytes | None:
        """See `Output.read`."""
        try:
            return safe_files.read(self._path / name, RECORD_BYTES)
        except FileNotFoundError:
            return None

    def opened(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """See `Output.opened`."""
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return atomic.opened(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See `Output.locked`. The lock is on the folder itself, and ends with the process."""
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
    """Prefix in an object store. It has no lock."""

    def __init__(self, url: str) -> None:
        self.place, self._store = url, _store(url)

    def names(self) -> list[str]:
        """See `Output.names`."""
        with _readable_errors(self.place):
            return sorted(item["path"] for batch in _obstore().list(self._store) for item in batch)

    def read(self, name: str) -> bytes | None:
        """See `Output.read`."""
        with _readable_errors(f"{self.place}/{name}"):
            try:
                return bytes(_obstore().get(self._store, name).bytes())
            except FileNotFoundError:
                return None

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """See `Output.opened`. The store shows an object only after the whole upload."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(_readable_errors(f"{self.place}/{name}"))
            upload = stack.enter_context(_obstore().open_writer(self._store, name))
            yield stack.enter_context(io.BufferedWriter(_Upload(upload), 2**20))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """See `Output.locked`."""
        yield


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
        """Start or continue a run. Raises BadRequest if the folder has files of something else, unless `overwrite`."""
        names = self.output.names()
        written = self._document(RUN)
        if written != self.fingerprint:
            if names and not overwrite:
                raise BadRequest(
                    f"the folder {self.output.place} is not empty: {self._why(written, names)}",
                    code="output-not-empty",
                    hint="pass another folder, or --overwrite to replace the results",
                )
            self._write(RUN, self.fingerprint)

    def _why(self, written: dict[str, Any] | None, names: Sequence[str]) -> str:
        if written is None:
            return f"it has {len(names)} files, such as {', '.join(names[:SIZE_SHOWN])}"
        other = [key for key, value in self.fingerprint.items() if written.get(key) != value]
        return f"a run with another {' and '.join(other)} wrote it"

    def finished(self, name: str, source: Input) -> dict[str, Any] | None:
        """The record of a finished result whose input has not changed; otherwise None."""
        record = self._document(self._record(name))
        same = record is not None and record.get("run") == self.fingerprint
        if not same or record is None or record.get("input") != _facts(source):
            return None
        return record

    def finish(self, name: str, source: Input, counts: dict[str, Any]) -> None:
        """Record a finished result. Raises OSError."""
        record = {"input": _facts(source), **counts, "run": self.fingerprint}
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
