"""Token file: callers with their roles. The file contains the sha256 of a token, not the token itself.

    [[token]]                                  [[certificate]]
    name = "dashboard"                         name = "trainer"
    roles = ["infer", "interpret"]             san = "spiffe://cluster/ns/ml/sa/trainer"
    sha256 = "9f86d0..."                       roles = ["admin"]
    expires = 2027-01-01T00:00:00Z             rate = 10.0
    rate = 100.0

A plain sha256 is enough: tokens are 32 random bytes, and a slow hash would cost time in every call.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import secrets
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.contract import safe_files
from kanexport.contract.cli.suggest import advice
from kanserve.auth.roles import Principal, Role, including
from kanserve.errors import ConfigError

PREFIX = "kan_"  # so that scanners for secrets, and people, know one when they see it
RANDOM_BYTES = 32
SHORTEST, LONGEST = 43, 512  # characters of a token: 32 bytes as base64, and what is looked at at most
FASTEST = 1e9  # calls per second
HASH = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
LARGEST, MOST = 2**20, 1000  # bytes of a file, callers in it: looking for a wrong token takes time for each
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
    """The file, whole and as strict as it should be. Raises ConfigError, in one line."""
    return read(_bytes(path), path)


def _bytes(path: Path) -> bytes:
    """A Secret that is mounted is a link."""
    try:
        _guarded(path.parent, path)
        return safe_files.read(path, LARGEST, links=True, inspect=lambda about: closed(about.st_mode, path))
    except OSError as error:
        raise ConfigError(f"the file of tokens {path} cannot be read: {error.strerror}") from error


def closed(mode: int, path: Path) -> None:
    """Raises ConfigError for a file that everyone on the machine may read or write: it says who may
    do what."""
    if mode & OTHERS:
        raise ConfigError(
            f"the file of tokens {path} is open to everyone on this machine (mode {stat.S_IMODE(mode):o}): chmod o-rw, "
            "or defaultMode: 0440 of a Secret that is mounted"
        )


def _guarded(folder: Path, path: Path) -> None:
    """Raises ConfigError for a directory in which everyone may put another file in the place of this one."""
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"the file of tokens {path} can be replaced by everyone on this machine: its directory has mode "
            f"{stat.S_IMODE(mode):o}: chmod o-w"
        )


def read(data: bytes, path: Path) -> Credentials:
    """The contents of `path`. Raises ConfigError, which never quotes what may be a token."""
    credentials = parse(data, path)
    if not credentials.tokens and not credentials.certificates:
        raise ConfigError(
            f"the file of tokens {path} names nobody: `kanserve token new NAME --roles infer --tokens {path}` makes one"
        )
    return credentials


def parse(data: bytes, path: Path) -> Credentials:
    """Contents as `read` returns them; a file without callers is valid here."""
    where = f"the file of tokens {path}"
    document = _document(data, where)
    tokens, certificates = (_entries(document.get(kind, []), kind, where) for kind in KEYS)
    if len(tokens) + len(certificates) > MOST:
        raise ConfigError(f"{where} names more than {MOST} callers")
    _distinct((entry.principal.name for entry in (*tokens, *certificates)), "name", where)
    for what, entries in (("token", tokens), ("certificate", certificates)):
        _distinct((entry.mark for entry in entries), what, where)
    return Credentials(tokens, certificates)


def _document(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {_place(error)}") from error
    except RecursionError:
        raise ConfigError(f"{where} is not a list of callers: its values are nested too deep") from None
    for key in document:
        if key not in KEYS:
            raise ConfigError(f"{where} has the unknown key {key[:40]!r}: {advice(key, KEYS)}")
    return document


def _place(error: tomllib.TOMLDecodeError) -> str:
    """Position of a syntax error, without the text there, which the parser quotes in some cases."""
    match = re.search(r"\(at .*?\)$", str(error))
    return f"a syntax error {match[0]}" if match else "a syntax error"


def _distinct(values: Iterable[str], what: str, where: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            shown = f"the name {value}" if what == "name" else f"one {what}"
            raise ConfigError(f"{where} has {shown} twice: each {what} is one caller's")
        seen.add(value)


def _entries(tables: object, kind: str, where: str) -> tuple[Entry, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{where}: {kind} is to be a list of tables, each under [[{kind}]]")
    return tuple(_entry(table, kind, f"{where}, [[{kind}]] number {at}") for at, table in enumerate(tables, 1))


def _entry(table: Mapping[str, Any], kind: str, where: str) -> Entry:
    for key in table:
        if key not in KEYS[kind]:
            raise ConfigError(f"{where} has the unknown key {key[:40]!r}: {advice(key, KEYS[kind])}")
    name = named(table.get("name"), where)
    where = f"{where} ({name})"
    roles = _roles(table.get("roles"), where)
    mark = _sha256(table.get("sha256"), where) if kind == "token" else _san(table.get("san"), where)
    expires = _expires(table.get("expires"), where)
    return Entry(
        Principal(name, including(roles), expires=expires, mark=mark), roles, mark, _rate(table.get("rate"), where)
    )


def named(value: object, where: str) -> str:
    """A caller's name. Raises ConfigError."""
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ConfigError(f"{where} needs a name: up to 64 letters, digits and . _ @ -, to be told apart in the log")
    return value


def _roles(value: object, where: str) -> frozenset[Role]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where} needs roles, a list of {', '.join(Role)}")
    for role in value:
        if role not in list(Role):
            known = advice(str(role), map(str, Role), what="roles")
            raise ConfigError(f"{where} has an unknown role {str(role)[:40]!r}: {known}")
    return frozenset(Role(role) for role in value)


def _sha256(value: object, where: str) -> str:
    if not isinstance(value, str) or not HASH.fullmatch(value):
        raise ConfigError(
            f"{where} needs sha256, 64 hexadecimal digits in lower case: the hash of a token, never the token itself; "
            "`kanserve token new` makes both"
        )
    return value


def _san(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 2048:
        raise ConfigError(f"{where} needs san, a name in the certificates of its callers (a URI, DNS name or address)")
    return value


def _expires(value: object, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        raise ConfigError(f"{where} has an expires that is no time with a zone, as in 2027-01-01T00:00:00Z")
    return value.timestamp()


def _rate(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= FASTEST:
        raise ConfigError(f"{where} has a rate that is no number of calls per second above 0")
    return float(value)
