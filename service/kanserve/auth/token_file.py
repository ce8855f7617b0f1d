"""Reader and editor of the token file. The editor adds or removes one caller and keeps all other text."""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kanexport.shared import safe_files
from kanexport.shared.cli.suggest import advice
from kanserve.auth.permissions import Principal, Role, including
from kanserve.errors import ConfigError

BLOCK = re.compile(r"^[ \t]*\[\[", re.MULTILINE)
CALLER_NAME = re.compile(r"^[ \t]*name[ \t]*=[ \t]*(?:\"([^\"]*)\"|'([^']*)')", re.MULTILINE)


def new(
    path: Path,
    name: str,
    roles: list[Role],
    *,
    token: str = "",
    expires: datetime.datetime | None = None,
    rate: float | None = None,
) -> str:
    """Append a caller to the file, and create the file if it is missing. Returns the token of the caller: `token`, or
    a new one. If it raises ConfigError, the file is unchanged."""
    named(name, "the new token")
    value = token or make()
    lines = ["[[token]]", f'name = "{name}"', f"roles = {json.dumps(roles)}"]
    lines.append(f'sha256 = "{digest(value)}"')
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}")
    if rate is not None:
        lines.append(f"rate = {rate}")
    with _open(path) as file:
        before = file.read()
        begin = "\n\n" if before.strip() and not before.endswith(b"\n") else "\n" if before.strip() else ""
        more = (begin + "\n".join(lines) + "\n").encode()
        read(before + more, path)
        file.write(more)  # in one piece: a server that reads meanwhile sees the old file or the new one
    return value


def revoke(path: Path, name: str, *, last: bool = False) -> None:
    """Remove a caller from the file. `last`: also if no other caller is left; a running server rejects such a file and
    keeps its callers. If it raises ConfigError, the file is unchanged."""
    with _open(path) as file:
        data = file.read()
        names = _names(data, path)
        if name not in names:
            raise ConfigError(
                f"the token file {path} has no caller {name[:64]!r}",
                code="caller-unknown",
                hint=advice(name, sorted(names)),
            )
        text = data.decode()
        begins = [match.start() for match in BLOCK.finditer(text)]
        parts = [text[: begins[0]], *(text[at:end] for at, end in zip(begins, [*begins[1:], len(text)], strict=True))]
        kept = "".join(part for part in parts if _name(part) != name).encode()
        if _names(kept, path) != names - {name}:
            raise ConfigError(
                f"the entry of {name} in {path} has an unusual form, so kanserve cannot remove it",
                code="token-entry-unusual",
                hint="remove the entry with a text editor",
            )
        if names == {name} and not last:
            raise ConfigError(
                f"{name} is the last caller of the token file {path}, and a server keeps its callers if none is left",
                code="caller-last",
                hint="create another token first with `kanserve token new`, or stop the server and delete the file",
            )
        about = os.fstat(file.fileno())
        _folder(path).write(path.name, kept, mode=stat.S_IMODE(about.st_mode), owner=(about.st_uid, about.st_gid))


def _names(data: bytes, path: Path) -> set[str]:
    credentials = parse(data, path)
    return {entry.principal.name for entry in (*credentials.tokens, *credentials.certificates)}


def _name(block: str) -> str:
    match = CALLER_NAME.search(block)
    return (match[1] or match[2] or "") if match else ""


def _folder(path: Path) -> safe_files.Folder:
    return safe_files.Folder(path.parent, shared=True)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open the file to read and append, for one command at a time. Raises ConfigError."""
    try:
        with _folder(path).append(path.name) as descriptor, open(descriptor, "r+b", buffering=0, closefd=False) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            about = os.fstat(descriptor)
            closed(about.st_mode, path)
            if about.st_size > LARGEST:
                raise ConfigError(
                    f"the token file {path} has {about.st_size} bytes, more than {LARGEST}",
                    code="token-file-too-large",
                    hint="remove callers that you no longer need",
                )
            yield file
    except OSError as error:
        raise ConfigError(
            f"the token file {path} cannot be changed: {error.strerror}",
            code="token-file-not-writable",
            hint="create the directory, and give yourself write permission for the file",
        ) from error


PREFIX = "kan_"  # so that scanners for secrets, and people, recognize one
RANDOM_BYTES = 32
SHORTEST, LONGEST = 43, 512  # characters of a token: 32 bytes as base64, and the most that is read
FASTEST = 1e9  # calls per second
HASH = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
LARGEST, MOST = 2**20, 1000  # bytes of a file, callers in it: the search for a wrong token takes time for each
FORM_HINT = "correct the file; `kanserve token new` writes valid entries"
OTHERS = stat.S_IROTH | stat.S_IWOTH
KEYS = {
    "token": frozenset({"name", "roles", "sha256", "expires", "rate"}),
    "certificate": frozenset({"name", "roles", "san", "rate"}),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Caller in the token file.

    mark  sha256 of a token as hexadecimal, or the name in a certificate
    rate  calls per second; None: unlimited
    """

    principal: Principal
    own: frozenset[Role]
    mark: str
    rate: float | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """Contents of a token file."""

    tokens: tuple[Entry, ...]
    certificates: tuple[Entry, ...]


def make() -> str:
    """A new token."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def digest(token: str) -> str:
    """Digest of a token, as in the file."""
    return hashlib.sha256(token.encode()).hexdigest()


def load(path: Path) -> Credentials:
    """The contents of the file, which may be a link, as in a mounted Secret. Raises ConfigError, with a message of one
    line, also for a directory in which all users may replace the file."""
    try:
        mode = path.parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(
                f"all users of this machine can replace the token file {path}: its directory has mode "
                f"{stat.S_IMODE(mode):o}",
                code="token-directory-open-to-others",
                hint="run chmod o-w on the directory",
            )
        data = safe_files.read(path, LARGEST, links=True, inspect=lambda about: closed(about.st_mode, path))
    except OSError as error:
        raise ConfigError(
            f"the token file {path} cannot be read: {error.strerror}",
            code="token-file-not-readable",
            hint="create the file with `kanserve token new`, or correct the setting `tokens`",
        ) from error
    return read(data, path)


def closed(mode: int, path: Path) -> None:
    """Raises ConfigError for a file that all users of the machine may read or write, because it controls access."""
    if mode & OTHERS:
        raise ConfigError(
            f"the token file {path} is open to all users of this machine (mode {stat.S_IMODE(mode):o})",
            code="token-file-open-to-others",
            hint="run chmod o-rw on the file; for a mounted Secret, set defaultMode: 0440",
        )


def read(data: bytes, path: Path) -> Credentials:
    """The contents of `path`. Raises ConfigError, which never quotes what may be a token."""
    credentials = parse(data, path)
    if not credentials.tokens and not credentials.certificates:
        raise ConfigError(
            f"the token file {path} has no callers",
            code="token-file-empty",
            hint=f"add a caller: kanserve token new NAME --roles infer --tokens {path}",
        )
    return credentials


def parse(data: bytes, path: Path) -> Credentials:
    """Contents as `read` returns them; a file without callers is valid here."""
    where = f"the token file {path}"
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8 text", code="token-file-not-toml", hint=FORM_HINT) from error
    except tomllib.TOMLDecodeError as error:
        match = re.search(r"\(at .*?\)$", str(error))  # without the text there, which the parser quotes in some cases
        place = f"a syntax error {match[0]}" if match else "a syntax error"
        raise ConfigError(f"{where} is not valid TOML: {place}", code="token-file-not-toml", hint=FORM_HINT) from error
    except RecursionError:
        raise ConfigError(
            f"{where} has values that are nested too deep", code="token-file-not-toml", hint=FORM_HINT
        ) from None
    for key in document:
        if key not in KEYS:
            raise ConfigError(
                f"{where} has the unknown key {key[:40]!r}", code="token-key-unknown", hint=advice(key, KEYS)
            )
    tokens, certificates = (_entries(document.get(kind, []), kind, where) for kind in KEYS)
    if len(tokens) + len(certificates) > MOST:
        raise ConfigError(
            f"{where} has more than {MOST} callers",
            code="too-many-callers",
            hint="remove callers that you no longer need",
        )
    _distinct((entry.principal.name for entry in (*tokens, *certificates)), "name", where)
    for what, entries in (("token", tokens), ("certificate", certificates)):
        _distinct((entry.mark for entry in entries), what, where)
    return Credentials(tokens, certificates)


def _distinct(values: Iterable[str], what: str, where: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            shown = f"the name {value}" if what == "name" else f"one {what}"
            raise ConfigError(
                f"{where} has {shown} twice, expected one caller per {what}",
                code="caller-duplicate",
                hint=f"give each caller a different {what}",
            )
        seen.add(value)


def _entries(tables: object, kind: str, where: str) -> tuple[Entry, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(
            f"{where}: {kind} is not a list of tables",
            code="token-file-not-toml",
            hint=f"write each caller under the heading [[{kind}]]",
        )
    return tuple(_entry(table, kind, f"{where}, [[{kind}]] number {at}") for at, table in enumerate(tables, 1))


def _entry(table: Mapping[str, Any], kind: str, where: str) -> Entry:
    for key in table:
        if key not in KEYS[kind]:
            raise ConfigError(
                f"{where} has the unknown key {key[:40]!r}", code="token-key-unknown", hint=advice(key, KEYS[kind])
            )
    name = named(table.get("name"), where)
    where = f"{where} ({name})"
    value = table.get("roles")
    if not isinstance(value, list) or not value:
        raise ConfigError(
            f"{where} has no roles, expected a list",
            code="roles-missing",
            hint=f"set roles to a list of {', '.join(Role)}",
        )
    for role in value:
        if role not in list(Role):
            raise ConfigError(
                f"{where} has an unknown role {str(role)[:40]!r}",
                code="role-unknown",
                hint=advice(str(role), map(str, Role), what="roles"),
            )
    roles = frozenset(Role(role) for role in value)
    mark = table.get("sha256" if kind == "token" else "san")
    if kind == "token" and not (isinstance(mark, str) and HASH.fullmatch(mark)):
        raise ConfigError(
            f"{where} has no valid sha256: expected 64 hexadecimal digits in lower case",
            code="token-hash-invalid",
            hint="store the SHA-256 hash of the token, not the token; `kanserve token new` creates both",
        )
    if not isinstance(mark, str) or not mark.strip() or len(mark) > 2048:
        raise ConfigError(
            f"{where} has no valid san: expected a URI, DNS name or address",
            code="certificate-name-invalid",
            hint="set san to a subject alternative name in the certificate of the caller",
        )
    expires = _expires(table.get("expires"), where)
    return Entry(
        Principal(name, including(roles), expires=expires, mark=mark), roles, mark, _rate(table.get("rate"), where)
    )


def named(value: object, where: str) -> str:
    """A caller's name. Raises ConfigError."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ConfigError(
            f"{where} has no valid name: expected up to 64 letters, digits and . _ @ -",
            code="caller-name-invalid",
            hint="choose a name that identifies the caller in the log, such as ci",
        )
    return value


def _expires(value: object, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        raise ConfigError(
            f"{where} has an invalid expires: expected a time with a zone",
            code="expiry-invalid",
            hint="write the time as 2027-01-01T00:00:00Z",
        )
    return value.timestamp()


def _rate(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= FASTEST:
        raise ConfigError(
            f"{where} has an invalid rate: expected a number of calls per second above 0",
            code="rate-invalid",
            hint="write a number such as rate = 10, or remove rate for no limit",
        )
    return float(value)
