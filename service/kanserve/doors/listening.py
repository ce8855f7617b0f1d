"""The port of a door, and how many connections it may have."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from kanserve import openfiles
from kanserve.errors import ConfigError
from kanserve.observe import logs

BACKLOG = 1024
PROBES = 3
LONGEST = 32767  # seconds, of TCP's

log = logs.get_logger("door")
_inherited: dict[int, int] = {}  # port -> file descriptor


def inherit(sockets: Mapping[int, int]) -> None:
    """File descriptors of sockets that another process has bound, by port: `bind` takes these."""
    _inherited.update(sockets)


def shared(port: int) -> bool:
    """Whether other processes serve this port too."""
    return port in _inherited


def keep(host: str, port: int, keepalive: float) -> socket.socket:
    """A port for processes that bind sockets of their own to it; this one takes no connection. Raises ConfigError."""
    return _bound(host, port, listens=False)


def bind(host: str, port: int, keepalive: float) -> socket.socket:
    """A listening socket. Raises ConfigError if the address is taken or wrong.

    Its connections take over that TCP looks for the peer after `keepalive` silent seconds, and gives it up after
    two thirds as many again.
    """
    made = socket.socket(fileno=_inherited[port]) if shared(port) else _bound(host, port, listens=True)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _seconds(keepalive))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _seconds(keepalive / PROBES))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES - 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(2000 * keepalive))
    return made


def _bound(host: str, port: int, *, listens: bool) -> socket.socket:
    bare = host.strip("[]")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    try:
        if listens:
            return socket.create_server((bare, port), family=family, backlog=BACKLOG, dualstack_ipv6=bare == "::")
        made = socket.socket(family)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind((bare, port))
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; is another server running there?"
        ) from error
    return made


def _seconds(value: float) -> int:
    return min(max(1, round(value)), LONGEST)


def allowed(connections: int, doors: int) -> int:
    """As many connections to each door as the open files of the process allow, with a line in the log where those
    are fewer."""
    granted = max(1, openfiles.connections(connections * doors) // doors)
    if granted < connections:
        log.warning(
            "fewer connections than max_connections",
            max_connections=connections,
            taken=granted,
            advice="allow the process more open files (ulimit -n)",
        )
    return granted
