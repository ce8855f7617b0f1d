"""Checks of the settings: certificates, the token file, ports and the state directory, by the server's own rules."""

from __future__ import annotations

import datetime
import os
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from kanexport.shared import safe_files
from kanserve.auth import authenticator
from kanserve.cli.doctor import machine_checks, repository_checks
from kanserve.cli.doctor.check_results import Finding, ok, problem, warning
from kanserve.config.hosts import is_loopback
from kanserve.config.settings import Settings
from kanserve.config.sources import DEFAULT, Loaded
from kanserve.errors import ConfigError
from kanserve.system import pem
from kanserve.transport import endpoints

ABOUT_CALLERS, ABOUT_STATE = "access", "statistics"
DAY = 86400
TOKEN_EXPIRY_WARNING = 21 * DAY  # seconds
CERTIFICATE_EXPIRY_WARNING = 21 * DAY  # seconds; a certificate of 90 days is renewed with 30 left


def check_callers(settings: Settings) -> Iterator[Finding]:
    """Findings about the token file: one for the file, and one for each token that has expired or expires soon. The
    file does not contain the tokens themselves."""
    try:
        credentials = authenticator.read(settings)
    except ConfigError as error:
        yield problem(ABOUT_CALLERS, str(error), error.hint or "correct the file, or create it: `kanserve token new`")
        return
    if credentials is None:
        if is_loopback(settings.host):
            yield ok(ABOUT_CALLERS, f"only this machine can connect (host {settings.host})")
        elif settings.tls_client_ca is not None:
            yield ok(ABOUT_CALLERS, "clients need a certificate that tls_client_ca signed")
        else:
            text = f"all clients that reach {settings.host} have access"
            yield warning(ABOUT_CALLERS, text, "set tokens or tls_client_ca")
        return
    yield ok(
        ABOUT_CALLERS,
        f"{settings.tokens} has {len(credentials.tokens)} tokens and {len(credentials.certificates)} certificates",
    )
    for entry in credentials.tokens:
        expires = entry.principal.expires
        if expires is not None and expires < time.time() + TOKEN_EXPIRY_WARNING:
            when = "has expired" if expires < time.time() else f"expires on {time.ctime(expires)}"
            text = f"the token {entry.principal.name} {when}"
            yield warning(ABOUT_CALLERS, text, "create a new token for its client, and revoke this one")


def check_certificates(settings: Settings) -> Iterator[Finding]:
    """Findings about certificates: one for each fault, otherwise one for each certificate."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        yield ok("TLS", "off: traffic is not encrypted")
        return
    try:
        until = pem.served(pem.identity(cert, key), cert, key)
    except pem.PemError as error:
        yield problem("TLS", str(error), "correct the file, or set another one (tls_cert, tls_key)")
    else:
        yield _lasting("TLS", cert, until)
        if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
            yield warning("TLS", f"every user of this machine can read or write the key {key}", f"run chmod o-rw {key}")
    authorities, about = settings.tls_client_ca, "client CA"
    if authorities is None:
        return
    try:
        pem.authorities(authorities)
    except pem.PemError as error:
        yield problem(about, str(error), "correct the file, or set another one (tls_client_ca)")
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=authorities)
    for certificate in context.get_ca_certs():
        yield _lasting(about, authorities, ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _lasting(about: str, path: Path, end: float) -> Finding:
    until, left = f"{datetime.datetime.fromtimestamp(end, datetime.UTC):%Y-%m-%d %H:%M} UTC", end - time.time()
    days = f"{left / DAY:.0f} days"
    if left < 0:
        return problem(about, f"{path} expired on {until}", "renew the certificate")
    if left < CERTIFICATE_EXPIRY_WARNING:
        return warning(about, f"{path} expires in {days}, on {until}", "renew the certificate")
    return ok(about, f"{path} is valid for {days}, until {until}")


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Findings about ports, one each. The check binds each port for a moment."""
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


def check_state_directory(settings: Settings) -> Iterator[Finding]:
    """Finding about the state directory; none if the settings name none. The server creates a missing directory."""
    if settings.state_dir is None:
        return
    try:
        safe_files.Folder(settings.state_dir).check()
    except safe_files.UnsafeFile as error:
        yield warning(
            ABOUT_STATE,
            f"state_dir is {settings.state_dir}, which {error.reason}: the server does not use it",
            "set a folder that belongs to the server's user and that others cannot write (--state-dir)",
        )
        return
    except OSError:  # it does not exist or cannot be opened: the nearest folder shows why
        pass
    nearest = next(path for path in (settings.state_dir, *settings.state_dir.absolute().parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        yield ok(ABOUT_STATE, f"stored in {settings.state_dir}")
        return
    what = "cannot be written" if nearest.is_dir() else "is not a folder"
    yield warning(
        ABOUT_STATE,
        f"state_dir is {settings.state_dir}, but {nearest} {what}: a restart of the server resets the statistics",
        "allow the server's user to write there, or set another folder (--state-dir)",
    )


def ahead(loaded: Loaded, *, running: bool = False) -> Iterator[Finding]:
    """Findings about valid settings, their files, the host and the models. `running`: a server may have the ports."""
    settings = loaded.settings
    yield ok("settings", loaded.summary())
    yield from check_certificates(settings)
    yield from check_callers(settings)
    if not running:
        yield from check_ports(settings)
    yield machine_checks.transport(settings)
    yield from machine_checks.runtime(settings)
    yield from machine_checks.traces(settings)
    yield machine_checks.kernel(settings)
    yield machine_checks.processors(settings)
    yield machine_checks.files(settings)
    yield from check_state_directory(settings)
    if loaded.origins["repository"] != DEFAULT:
        yield from repository_checks.check_repository(settings)
