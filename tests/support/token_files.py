"""Token files for tests: one client per role, and one with an expired token."""

from __future__ import annotations

from pathlib import Path

from kanserve.auth import token_file
from kanserve.auth.authenticator import Authenticator
from kanserve.grpc_api.call_context import RequestMetadata

ROLES = ("read", "infer", "interpret", "admin")
LONG_AGO = "2020-01-01T00:00:00Z"


def write(path: Path, *, more: str = "") -> dict[str, str]:
    """The tokens by role, and "expired", an admin's; `more` is TOML that follows."""
    created = {name: token_file.make() for name in (*ROLES, "expired")}
    parts = [block(name, created[name], "admin" if name == "expired" else name) for name in created]
    save(path, "\n".join([*parts, f"expires = {LONG_AGO}\n", more]))
    return created


def block(name: str, token: str, *roles: str, **fields: object) -> str:
    """One [[token]]."""
    lines = [f'name = "{name}"', f"roles = {list(roles)}", f'sha256 = "{token_file.digest(token)}"']
    return "\n".join(["[[token]]", *lines, *(f"{key} = {value}" for key, value in fields.items()), ""])


def save(path: Path, text: str) -> None:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call."""
    return (("authorization", f"Bearer {token}"),)


def shown(token: str = "", certificate: str = "") -> RequestMetadata:
    """Metadata of a call with these credentials."""
    return RequestMetadata(bearer(token) if token else (), None, certificate)


def gate(text: str, folder: Path) -> Authenticator:
    """The authenticator of a token file with this text. The names of a certificate are its words."""
    save(folder / "t", text)
    return Authenticator(token_file.load(folder / "t"), lambda certificate: frozenset(str(certificate).split()))
