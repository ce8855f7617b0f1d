"""TLS of a door: the files that the settings name, looked into before a port is bound."""

from __future__ import annotations

from dataclasses import dataclass

from kanserve import pem
from kanserve.config import Settings
from kanserve.errors import ConfigError
from kanserve.observe import logs

log = logs.get_logger("tls")


@dataclass(frozen=True, slots=True)
class Tls:
    """What a door shows, and whom it lets in: `client_ca` signs callers' certificates; None: anyone."""

    identity: pem.Identity
    client_ca: bytes | None


def load(settings: Settings) -> Tls | None:
    """None: in the clear. Says in the log until when the certificate is valid. Raises ConfigError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        identity = pem.identity(settings.tls_cert, settings.tls_key)
        expires = pem.served(settings.tls_cert, settings.tls_key)
        client_ca = pem.authorities(settings.tls_client_ca) if settings.tls_client_ca else None
    except pem.PemError as error:
        raise ConfigError(f"no TLS: {error}") from error
    log.info("tls", certificate=str(settings.tls_cert), expires=expires, callers_show_one=client_ca is not None)
    return Tls(identity, client_ca)
