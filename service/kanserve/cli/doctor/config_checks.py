"""Checks of the settings: certificates, the token file, ports and the state directory, by the server's own rules."""

from __future__ import annotations

import datetime
import os
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from kanexport.contract import safe_files
from kanserve.auth import authenticator
from kanserve.cli.doctor import machine_checks, repository_checks
from kanserve.cli.doctor.check_results import Finding, ok, problem, warning
from kanserve.config.settings import Settings, is_loopback
from kanserve.config.sources import DEFAULT, Loaded
from kanserve.errors import ConfigError
from kanserve.system import pem
from kanserve.transport import endpoints

ABOUT_CALLERS = "callers"
TOKEN_EXPIRY_WARNING = 21 * 86400  # seconds


def check_callers(settings: Settings) -> Iterator[Finding]:
    """Findings about the token file: one for the file, and one for each token that has expired or soon will. The
    file has no token to show."""
    try:
        credentials = authenticator.read(settings)
    except ConfigError as error:
        yield problem(ABOUT_CALLERS, str(error), "correct the file; `kanserve token new` makes a token")
        return
    if credentials is None:
        yield _anyone(settings)
        return
    yield ok(
        ABOUT_CALLERS,
        f"{settings.tokens} has {len(credentials.tokens)} tokens and {len(credentials.certificates)} certificates",
    )
    for entry in credentials.tokens:
        expires = entry.principal.expires
        if expires is not None and expires < time.time() + TOKEN_EXPIRY_WARNING:
            when = "has expired" if expires < time.time() else f"expires on {time.ctime(expires)}"
            yield warning(
                ABOUT_CALLERS, f"the token {entry.principal.name} {when}", "give its caller another, take it out"
            )


def _anyone(settings: Settings) -> Finding:
    if is_loopback(settings.host):
        return ok(ABOUT_CALLERS, f"anyone on this machine (host {settings.host})")
    if settings.tls_client_ca is not None:
        return ok(ABOUT_CALLERS, "whoever has a certificate of tls_client_ca")
    return warning(
        ABOUT_CALLERS,
        f"anyone who reaches {settings.host}",
        "a file of tokens, or client certificates, keep others out",
    )


DAY = 86400
CERTIFICATE_EXPIRY_WARNING = 21 * DAY  # seconds; a certificate of 90 days is renewed with 30 left


def check_certificates(settings: Settings) -> Iterator[Finding]:
    """Findings about certificates: one for each fault, otherwise one for each certificate."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        yield ok("TLS", "none: the ports are in the clear")
        return
    try:
        until = pem.served(pem.identity(cert, key), cert, key)
    except pem.PemError as error:
        yield problem("TLS", str(error), "put the right file there, or name another (tls_cert, tls_key)")
    else:
        yield _lasting("TLS", cert, until)
        yield from _readers(key)
    if settings.tls_client_ca is not None:
        yield from _authorities(settings.tls_client_ca)


def _authorities(path: Path) -> Iterator[Finding]:
    about = "callers' authorities"
    try:
        pem.authorities(path)
    except pem.PemError as error:
        yield problem(about, str(error), "put the right file there, or name another (tls_client_ca)")
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=path)
    for certificate in context.get_ca_certs():
        yield _lasting(about, path, ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _lasting(about: str, path: Path, end: float) -> Finding:
    until, left = f"{datetime.datetime.fromtimestamp(end, datetime.UTC):%Y-%m-%d %H:%M} UTC", end - time.time()
    days = f"{left / DAY:.0f} days"
    if left < 0:
        return problem(about, f"{path} has expired on {until}", "renew it")
    if left < CERTIFICATE_EXPIRY_WARNING:
        return warning(about, f"{path} expires in {days}, on {until}", "renew it")
    return ok(about, f"{path} is valid for {days}, until {until}")


def _readers(key: Path) -> Iterator[Finding]:
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield warning("TLS", f"everybody on this machine may read or write the key {key}", f"chmod o-rw {key}")


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Findings about ports, one each. The check binds each port for a moment and serves nothing there."""
    try:
        ports = endpoints.server_ports(settings)
    except ConfigError as error:
        yield _problem(error)
        return
    for port in ports:
        if wrong := endpoints.bind_error(port):
            yield _problem(wrong)
        else:
            yield ok(port.name, f"{port.place} is free" if port.port else f"any free port of {port.host}")


def _problem(error: ConfigError) -> Finding:
    about, _, text = str(error).partition(": ")
    return problem(about, text, error.hint)


ABOUT_STATE = "statistics"


def check_state_directory(settings: Settings) -> Iterator[Finding]:
    """Finding about the state directory; none if the settings name none. The server creates a missing directory."""
    if settings.state_dir is None:
        return
    try:
        safe_files.Folder(settings.state_dir).check()
    except safe_files.UnsafeFile as error:
        yield warning(
            ABOUT_STATE,
            f"they are to be kept in {settings.state_dir}, which {error.reason}: the server will not use it",
            "name a directory that belongs to the server's user and that others cannot write (--state-dir)",
        )
        return
    except OSError:  # it does not exist, or cannot be opened: the nearest directory shows why
        pass
    nearest = next(path for path in (settings.state_dir, *settings.state_dir.absolute().parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        yield ok(ABOUT_STATE, f"kept in {settings.state_dir}")
        return
    what = "cannot be written" if nearest.is_dir() else "is no folder"
    yield warning(
        ABOUT_STATE,
        f"they are to be kept in {settings.state_dir}, and {nearest} {what}: they will be lost with the server",
        "let the server's user write there, or name another folder (--state-dir)",
    )


def ahead(loaded: Loaded, *, running: bool = False) -> Iterator[Finding]:
    """Settings that are right, and what they name and need. Starts nothing. `running`: a server may have the ports."""
    settings = loaded.settings
    yield ok("settings", loaded.summary())
    yield from check_certificates(settings)
    yield from check_callers(settings)
    if not running:
        yield from check_ports(settings)
    yield machine_checks.transport(settings)
    yield from machine_checks.runtime(settings)
    yield machine_checks.processors(settings)
    yield machine_checks.files(settings)
    yield from check_state_directory(settings)
    if loaded.origins["repository"] != DEFAULT:
        yield from repository_checks.check_repository(settings)
