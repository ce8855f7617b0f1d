"""The files of TLS: readable, fitting together, not expired; how long they last; who can read the key."""

from __future__ import annotations

import datetime
import ssl
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from kanserve import pem
from kanserve.config import Settings
from kanserve.diagnosis.finding import Finding, ok, problem, warning

DAY = 86400
SOON = 21 * DAY  # seconds; a certificate of 90 days is renewed with 30 left


def look(settings: Settings) -> Iterator[Finding]:
    """One finding for each thing that is wrong, else one for each certificate."""
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
    for found in context.get_ca_certs():
        yield _lasting(about, path, ssl.cert_time_to_seconds(str(found["notAfter"])))


def _lasting(about: str, path: Path, end: float) -> Finding:
    until, left = f"{datetime.datetime.fromtimestamp(end, datetime.UTC):%Y-%m-%d %H:%M} UTC", end - time.time()
    days = f"{left / DAY:.0f} days"
    if left < 0:
        return problem(about, f"{path} has expired on {until}", "renew it")
    if left < SOON:
        return warning(about, f"{path} expires in {days}, on {until}", "renew it")
    return ok(about, f"{path} is valid for {days}, until {until}")


def _readers(key: Path) -> Iterator[Finding]:
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        yield warning("TLS", f"everybody on this machine may read or write the key {key}", f"chmod o-rw {key}")
