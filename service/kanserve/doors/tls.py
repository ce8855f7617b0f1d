"""TLS of the doors: the files that the settings name, looked into before they are used, at the start and later."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from kanserve import pem
from kanserve.config import Settings
from kanserve.errors import ConfigError
from kanserve.observe import logs

log = logs.get_logger("tls")


@dataclass(frozen=True, slots=True)
class Tls:
    """What a door shows, and whom it lets in: `client_ca` signs callers' certificates; None: anyone. `expires`: when
    the certificate does, in seconds since 1970."""

    identity: pem.Identity
    client_ca: bytes | None
    expires: float


def load(settings: Settings) -> Tls | None:
    """None: in the clear. Says in the log until when the certificate is valid. Raises ConfigError."""
    found = read(settings)
    if found is not None:
        told(found, settings)
    return found


def told(found: Tls, settings: Settings) -> None:
    """The line of a certificate that is served from now on."""
    until = datetime.datetime.fromtimestamp(found.expires, datetime.UTC)
    log.info(
        "tls",
        certificate=str(settings.tls_cert),
        expires=f"{until:%Y-%m-%dT%H:%M:%SZ}",
        callers_show_one=found.client_ca is not None,
    )


def read(settings: Settings) -> Tls | None:
    """What the files hold now. Raises ConfigError for what no server could use: an expired certificate, a key of
    another one, half of a rotation."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        identity = pem.identity(settings.tls_cert, settings.tls_key)
        expires = pem.served(identity, settings.tls_cert, settings.tls_key)
        client_ca = pem.authorities(settings.tls_client_ca) if settings.tls_client_ca else None
    except pem.PemError as error:
        raise ConfigError(f"no TLS: {error}") from error
    return Tls(identity, client_ca, expires)
