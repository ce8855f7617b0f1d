"""Who may call: the file of tokens, by the server's own rules, and what is in it that no longer lets anybody in."""

from __future__ import annotations

import time
from collections.abc import Iterator

from kanserve.access import keeper
from kanserve.config import Settings, is_loopback
from kanserve.diagnosis.finding import Finding, ok, problem, warning
from kanserve.errors import ConfigError

ABOUT = "callers"
SOON = 21 * 86400  # seconds


def look(settings: Settings) -> Iterator[Finding]:
    """One finding for the file, one for each token that has expired or soon will. No token is shown: none is there."""
    try:
        found = keeper.read(settings)
    except ConfigError as error:
        yield problem(ABOUT, str(error), "correct the file; `kanserve token new` makes a token")
        return
    if found is None:
        yield _anyone(settings)
        return
    yield ok(ABOUT, f"{settings.tokens} has {len(found.tokens)} tokens and {len(found.certificates)} certificates")
    for entry in found.tokens:
        expires = entry.principal.expires
        if expires is not None and expires < time.time() + SOON:
            when = "has expired" if expires < time.time() else f"expires on {time.ctime(expires)}"
            yield warning(ABOUT, f"the token {entry.principal.name} {when}", "give its caller another, take it out")


def _anyone(settings: Settings) -> Finding:
    if is_loopback(settings.host):
        return ok(ABOUT, f"anyone on this machine (host {settings.host})")
    if settings.tls_client_ca is not None:
        return ok(ABOUT, "whoever has a certificate of tls_client_ca")
    return warning(
        ABOUT, f"anyone who reaches {settings.host}", "a file of tokens, or client certificates, keep others out"
    )
