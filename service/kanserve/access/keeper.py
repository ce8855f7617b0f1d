"""The gate as the file of tokens says: read at the start, and again when the file has changed."""

from __future__ import annotations

from kanserve.access import names, tokens
from kanserve.access.gate import Gate
from kanserve.access.tokens import Credentials
from kanserve.config import Settings
from kanserve.errors import ConfigError
from kanserve.observe import logs

log = logs.get_logger("access")


def build(settings: Settings) -> Gate | None:
    """None: no file is named, and anyone may call. Raises ConfigError."""
    credentials = read(settings)
    if credentials is None:
        return None
    told(credentials, settings)
    return Gate(credentials, names.of)


def read(settings: Settings) -> Credentials | None:
    """What the file says now; None: none is named. Raises ConfigError."""
    if settings.tokens is None:
        return None
    credentials = tokens.load(settings.tokens)
    _check(credentials, settings)
    return credentials


def _check(credentials: Credentials, settings: Settings) -> None:
    """Raises ConfigError for certificates that could not be told here."""
    if not credentials.certificates:
        return
    if settings.tls_client_ca is None:
        raise ConfigError(
            f"the file of tokens {settings.tokens} has [[certificate]], and tls_client_ca is not set: nobody is asked "
            "for one"
        )
    if missing := names.missing():
        raise ConfigError(
            f"the file of tokens {settings.tokens} has [[certificate]], and reading those needs {missing}: "
            "pip install 'kanserve[certificates]'"
        )


def told(credentials: Credentials, settings: Settings) -> None:
    """The line of a file that is in effect from now on."""
    counts = {"tokens": len(credentials.tokens), "certificates": len(credentials.certificates)}
    log.info("tokens", file=str(settings.tokens), **counts)
