"""An address, and whom to trust there, as a gRPC channel."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from kanserve import pem

OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # gRPC's own are 1 s and 2 minutes, in which no retry of ours would reach a server that is there again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
PLAIN, SECURE = "grpc://", "grpcs://"
# What gRPC core says of a connection that was not made -> what that means; the first that is found counts.
FAILURES = (
    (r"Hostname Verification", "its certificate is for another name; server_name (--server-name) says which is meant"),
    (r"WRONG_VERSION_NUMBER", "it does not speak TLS"),
    (
        r"CERTIFICATE_VERIFY_FAILED: ([\w ]+)",
        "its certificate is not trusted ({0}); ca (--ca) names a file with whom to trust",
    ),
    (r"TSI_|SSL_ERROR", "TLS failed; it may want a certificate of the caller: cert and key (--cert, --key)"),
)
CLOSED = "Socket closed"
CLOSED_MEANS = {
    False: "it closes the connection at once; it may want TLS: grpcs://HOST:PORT",
    True: "it closes the connection at once; it may want a certificate of the caller: cert and key (--cert, --key)",
}


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files and names; None and "": not given."""

    ca: Path | None
    cert: Path | None
    key: Path | None
    server_name: str

    @classmethod
    def of(cls, ca: str | Path | None, cert: str | Path | None, key: str | Path | None, server_name: str) -> Tls:
        """Raises ValueError for half a pair."""
        if bool(cert) != bool(key):
            raise ValueError("a certificate (cert) and its private key (key) go together, and one is missing")
        return cls(_path(ca), _path(cert), _path(key), server_name)

    @property
    def wanted(self) -> bool:
        """Whether anything was given."""
        return bool(self.ca or self.cert or self.server_name)


def carried(token: str, url: str, *, secure: bool, in_clear: bool) -> tuple[tuple[str, str], ...]:
    """The metadata of every call. Raises ValueError for a token that would be read on the way, or is none."""
    if not token:
        return ()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token has characters that no token has")
    if not (secure or in_clear or _here(url)):
        raise ValueError(
            f"a token would travel to {url} in the clear: grpcs://HOST:PORT is TLS; on a network that is trusted, say "
            "so with token_in_clear (--token-in-clear)"
        )
    return (("authorization", f"Bearer {token}"),)


def _here(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = url.removeprefix(PLAIN).rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or url.startswith("unix:")


def _path(name: str | Path | None) -> Path | None:
    return Path(name) if name else None


def is_secure(url: str, tls: Tls) -> bool:
    """Whether TLS is meant. Raises ValueError where the address says no, and the rest yes."""
    if url.startswith(PLAIN) and tls.wanted:
        raise ValueError(
            f"{url} is an address without TLS, and certificates or a server name were given: "
            f"{SECURE}{url.removeprefix(PLAIN)} is one with it"
        )
    return url.startswith(SECURE) or tls.wanted


def connect(url: str, tls: Tls) -> grpc.Channel:
    """A channel that connects when it is first used. Raises ValueError, also for files that do not serve."""
    target, credentials, options = _asked(url, tls)
    if credentials is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, credentials, options=options)


def connect_awaited(url: str, tls: Tls) -> grpc.aio.Channel:
    """The same for the event loop that runs."""
    target, credentials, options = _asked(url, tls)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def _asked(url: str, tls: Tls) -> tuple[str, grpc.ChannelCredentials | None, list[tuple[str, int | str]]]:
    """The address as gRPC has it, whom to trust there (None: no TLS), and the channel's options. Raises ValueError."""
    target = url.removeprefix(SECURE).removeprefix(PLAIN)
    if not is_secure(url, tls):
        return target, None, OPTIONS
    names = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return target, _credentials(tls), [*OPTIONS, *names]


def _credentials(tls: Tls) -> grpc.ChannelCredentials:
    trusted = pem.authorities(tls.ca) if tls.ca else None
    own = pem.identity(tls.cert, tls.key) if tls.cert and tls.key else None
    return grpc.ssl_channel_credentials(trusted, own.key if own else None, own.chain if own else None)


def not_connected(details: str, *, secure: bool) -> str:
    """Why there is no connection, where a server was found and that is not its load; else ""."""
    if "connect" not in details:
        return ""
    for pattern, words in FAILURES:
        if found := re.search(pattern, details):
            return words.format(*found.groups())
    return CLOSED_MEANS[secure] if CLOSED in details else ""
