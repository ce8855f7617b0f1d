"""Ports of a server, the reason why a port cannot be opened, and the connection limit of a transport."""

from __future__ import annotations

import datetime
import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from kanserve.config.settings import Settings
from kanserve.errors import ConfigError
from kanserve.observability import logs
from kanserve.system import pem, resources

BACKLOG = 1024
PROBES = 3
LONGEST = 32767  # seconds, the limit of TCP
ADVICE = {
    errno.EADDRINUSE: "end the process that listens there (`ss -ltnp`), or choose another port with {flag}",
    errno.EACCES: "choose a port from 1024 on with {flag}, or give the process the right to bind it",
    errno.EADDRNOTAVAIL: "use an address of this machine (`ip addr`)",
}

log = logs.get_logger("transport")
_inherited: dict[int, int] = {}  # port -> file descriptor


@dataclass(frozen=True, slots=True)
class Port:
    """Port that a server listens on.

    name  text for messages, such as "gRPC port"
    flag  flag that chooses the port
    host  address or host name
    port  number
    """

    name: str
    flag: str
    host: str
    port: int

    @classmethod
    def grpc(cls, settings: Settings) -> Port:
        """The port of gRPC; with `asgi` it serves HTTP too."""
        return cls("gRPC port", "--grpc-port", settings.host, settings.grpc_port)

    @classmethod
    def http(cls, settings: Settings) -> Port:
        """The port of HTTP, if HTTP has its own."""
        return cls("HTTP port", "--http-port", settings.host, settings.http_port or 0)

    @classmethod
    def metrics(cls, settings: Settings) -> Port:
        """The port of the metrics."""
        return cls("metrics port", "--metrics-port", settings.metrics_host, settings.metrics_port)

    @property
    def place(self) -> str:
        """The address, such as 127.0.0.1:8001."""
        return f"{self.host}:{self.port}"

    def refused(self, error: OSError) -> ConfigError:
        """The error for a port that cannot be opened, with a hint."""
        advice = ADVICE.get(error.errno or 0, "use another address").format(flag=self.flag)
        known = (error.errno or 0) > 0  # asyncio extends the system's text; host name errors have none
        why = os.strerror(error.errno or 0) if known else error.strerror or error
        return ConfigError(
            f"{self.name}: the server cannot listen on {self.place}: {why}", code="port-not-bound", hint=advice
        )


def server_ports(settings: Settings) -> tuple[Port, ...]:
    """All ports that a server with these settings listens on. Raises ConfigError if two ports are the same."""
    ports = [Port.grpc(settings), *([Port.http(settings)] if settings.http_port is not None else [])]
    ports.append(Port.metrics(settings))
    names: dict[tuple[str, int], str] = {}
    for port in ports:
        first = names.setdefault((port.host, port.port), port.name)
        if port.port and first != port.name:
            raise ConfigError(
                f"{port.name}: {port.place} is already the {first}",
                code="port-duplicate",
                hint=f"choose another port with {port.flag}",
            )
    return tuple(ports)


def bind_error(port: Port) -> ConfigError | None:
    """The error of a port, if it has one. The function binds the port for a moment and accepts no connection."""
    try:
        _bound(port, listens=True).close()
    except ConfigError as error:
        return error
    return None


def inherit(sockets: Mapping[int, int]) -> None:
    """File descriptors of sockets that another process has bound, by port: `bind` takes these."""
    _inherited.update(sockets)


def shared(port: int) -> bool:
    """Whether other processes serve this port too."""
    return port in _inherited


def reserve(port: Port) -> socket.socket:
    """A socket that reserves a port for other processes, and accepts no connection. Raises ConfigError."""
    return _bound(port, listens=False)


def bind(port: Port, keepalive: float) -> socket.socket:
    """A listening socket. Raises ConfigError if the address is taken or wrong.

    On its connections, TCP checks the peer after `keepalive` silent seconds, and closes the connection after two thirds
    of that time without a reply.
    """
    listener = socket.socket(fileno=_inherited[port.port]) if shared(port.port) else _bound(port, listens=True)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _seconds(keepalive))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _seconds(keepalive / PROBES))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES - 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(2000 * keepalive))
    return listener


def _bound(port: Port, *, listens: bool) -> socket.socket:
    bare = port.host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        if listens:
            return socket.create_server((bare, port.port), family=family, backlog=BACKLOG, dualstack_ipv6=bare == "::")
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((bare, port.port))
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise port.refused(error) from error
    return listener


def _seconds(value: float) -> int:
    return min(max(1, round(value)), LONGEST)


def connection_limit(connections: int, listeners: int) -> int:
    """The number of connections per listener that the open files of the process allow. A lower number than
    `connections` is logged."""
    granted = max(1, resources.connections(connections * listeners) // listeners)
    if granted < connections:
        log.warning(
            "connection_limit_reduced",
            max_connections=connections,
            taken=granted,
            help="allow the process more open files (ulimit -n)",
        )
    return granted


tls_log = logs.get_logger("tls")


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS material of a transport.

    identity   certificate chain and private key
    client_ca  certificates, as PEM, that sign the clients' certificates; None: clients need none
    expires    end of validity of the certificate, in seconds since 1970
    """

    identity: pem.Identity
    client_ca: bytes | None
    expires: float


def load(settings: Settings) -> Tls | None:
    """Read the TLS material, and log the expiry of the certificate. None without TLS. Raises ConfigError."""
    tls = read(settings)
    if tls is not None:
        log_certificate(tls, settings)
    return tls


def log_certificate(tls: Tls, settings: Settings) -> None:
    """Log the certificate that the server uses from now on."""
    until = datetime.datetime.fromtimestamp(tls.expires, datetime.UTC)
    tls_log.info(
        "tls_certificate_loaded",
        certificate=str(settings.tls_cert),
        expires=f"{until:%Y-%m-%dT%H:%M:%SZ}",
        callers_show_one=tls.client_ca is not None,
    )


def read(settings: Settings) -> Tls | None:
    """The current contents of the TLS files. Raises ConfigError for an expired certificate, a key of another
    certificate, or a half-finished rotation."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    try:
        identity = pem.identity(settings.tls_cert, settings.tls_key)
        expires = pem.served(identity, settings.tls_cert, settings.tls_key)
        client_ca = pem.authorities(settings.tls_client_ca) if settings.tls_client_ca else None
    except pem.PemError as error:
        raise ConfigError(f"TLS: {error}", code=error.code, hint=error.hint) from error
    return Tls(identity, client_ca, expires)
