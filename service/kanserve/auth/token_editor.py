"""Editor of the token file: it adds or removes one caller and keeps all other text."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kanexport.contract import safe_files
from kanexport.contract.cli.suggest import advice
from kanserve.auth import token_file
from kanserve.auth.roles import Role
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
    """A caller more, at the end of the file, which is made where it is not there. Returns its token: `token`, or
    a new one. Raises ConfigError; then the file is as it was."""
    token_file.named(name, "the new token")
    value = token or token_file.make()
    lines = ["[[token]]", f'name = "{name}"', f"roles = {json.dumps(roles)}"]
    lines.append(f'sha256 = "{token_file.digest(value)}"')
    if expires is not None:
        lines.append(f"expires = {expires.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}")
    if rate is not None:
        lines.append(f"rate = {rate}")
    with _open(path) as file:
        before = file.read()
        begin = "\n\n" if before.strip() and not before.endswith(b"\n") else "\n" if before.strip() else ""
        more = (begin + "\n".join(lines) + "\n").encode()
        token_file.read(before + more, path)
        file.write(more)  # in one piece: a server that looks meanwhile sees the old file or the new
    return value


def revoke(path: Path, name: str) -> None:
    """A caller less. Raises ConfigError; then the file is as it was."""
    with _open(path) as file:
        data = file.read()
        names = _names(data, path)
        if name not in names:
            raise ConfigError(f"the file of tokens {path} has no {name[:64]!r}: {advice(name, sorted(names))}")
        text = data.decode()
        begins = [match.start() for match in BLOCK.finditer(text)]
        parts = [text[: begins[0]], *(text[at:end] for at, end in zip(begins, [*begins[1:], len(text)], strict=True))]
        kept = "".join(part for part in parts if _name(part) != name).encode()
        if _names(kept, path) != names - {name}:
            raise ConfigError(f"{name} stands in {path} in a way that only an editor can take out")
        about = os.fstat(file.fileno())
        _folder(path).write(path.name, kept, mode=stat.S_IMODE(about.st_mode), owner=(about.st_uid, about.st_gid))


def _names(data: bytes, path: Path) -> set[str]:
    credentials = token_file.parse(data, path)
    return {entry.principal.name for entry in (*credentials.tokens, *credentials.certificates)}


def _name(block: str) -> str:
    match = CALLER_NAME.search(block)
    return (match[1] or match[2] or "") if match else ""


def _folder(path: Path) -> safe_files.Folder:
    return safe_files.Folder(path.parent, shared=True)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """To be read and appended to, by one command at a time. Raises ConfigError."""
    try:
        with _folder(path).append(path.name) as descriptor, open(descriptor, "r+b", buffering=0, closefd=False) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            about = os.fstat(descriptor)
            token_file.closed(about.st_mode, path)
            if about.st_size > token_file.LARGEST:
                raise ConfigError(
                    f"the file of tokens {path} has {about.st_size} bytes, more than {token_file.LARGEST}"
                )
            yield file
    except OSError as error:
        raise ConfigError(f"the file of tokens {path} cannot be changed: {error.strerror}") from error
