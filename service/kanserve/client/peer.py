"""Whom a client calls, and how long it tries: what the clients that wait and those that await have in common."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from kanserve.client import channel, errors
from kanserve.client.calls import Ask, Call
from kanserve.client.errors import ClientError

C = TypeVar("C")
S = TypeVar("S", bound="Peer[Any]")
M = TypeVar("M", bound=Callable[..., Any])
SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)

FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.1, 2.0  # seconds; doubles, with jitter
PUSH_BACK = "grpc-retry-pushback-ms"  # metadata key of gRPC retries (gRFC A6)
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)  # the second only with push-back


class Peer(ABC, Generic[C]):
    """An address, its channel, and what goes with every call to it."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        server_name: str = "",
        token: str = "",
        token_in_clear: bool = False,
    ) -> None:
        """`url` is host:port, or grpcs://host:port for TLS, which any of the other arguments ask for too.

        `timeout` seconds bound every single call, retries included. The client makes at most `retries` retries while
        the server is unavailable or limits the rate. 3 retries take half a second, 8 about 8 s, and more if the server
        states a longer wait. PEM files: `ca` has whom to
        trust (default: the usual authorities), `cert` and `key` show who is calling. `server_name`
        is what the server's certificate says, where that is not the host. `token` goes with every call, over TLS or
        to this machine alone unless `token_in_clear`. Raises ValueError.
        """
        if retries < 0:
            raise ValueError(f"retries is {retries}, expected 0 or more")
        self.url = url
        self.timeout = _seconds("timeout", timeout)
        self.retries = retries
        tls = channel.Tls.of(ca, cert, key, server_name)
        self._secure = channel.is_secure(url, tls)
        self._metadata = channel.carried(token, url, secure=self._secure, in_clear=token_in_clear)
        self._channel = self._open(tls)

    @abstractmethod
    def _open(self, tls: channel.Tls) -> C:
        """The channel. Raises ValueError."""

    def within(self: S, seconds: float) -> S:
        """The same connection, whose calls may take so long: `client.within(0.2).infer(...)`. Closing one closes both.
        Raises ValueError."""
        other = copy.copy(self)
        other.timeout = _seconds("seconds", seconds)
        return other

    def _send(self, call: Call[Any]) -> Any:
        """What sends the call, by gRPC's own ways."""
        found: Any = self._channel
        shape = found.unary_stream if call.stream else found.unary_unary
        return shape(call.path, request_serializer=None, response_deserializer=call.parse)

    def _attempts(self, call: Call[Any]) -> Attempts:
        return Attempts(self.timeout, self.retries if call.again else 0)

    def _translated(self, call: Call[Any], error: grpc.RpcError) -> ClientError:
        """What gRPC raised, in our words."""
        code, details = error.code().name, error.details() or "no explanation was given"
        if code == "UNAVAILABLE" and (why := channel.not_connected(details, secure=self._secure)):
            return errors.of(code, f"no connection to the server at {self.url}: {why}", unreachable=True)
        if code == "UNAVAILABLE" and "connect" in details.lower():
            return errors.of(code, f"no server answers at {self.url}", unreachable=True)
        words = {
            "UNAVAILABLE": f"the server at {self.url} is not available: {details}",
            "DEADLINE_EXCEEDED": f"no answer from {self.url} within {self.timeout:g} s",
            "UNIMPLEMENTED": f"the server at {self.url} does not offer {call.path.rpartition('/')[2]}: {details}",
        }
        plain = details if code in errors.BY_CODE else f"the server at {self.url} failed ({code}): {details}"
        return errors.of(code, words.get(code, plain), push_back=push_back(error))


def push_back(error: grpc.RpcError) -> float | None:
    """Seconds that the server asks the client to wait; infinite for "never", None without push-back."""
    trailers: Any = error.trailing_metadata()
    said = dict(trailers or ()).get(PUSH_BACK)
    if said is None:
        return None
    # gRFC A6: a value that is not a number of milliseconds from 0 means that the client does not retry.
    return int(said) / 1000 if isinstance(said, str) and said.isascii() and said.isdigit() else math.inf


def as_method(method: M, make: Callable[..., Ask[Any]]) -> M:
    """Known to `help` by the name, the arguments and the words of what makes its call, and by what comes of it."""
    told = inspect.signature(make)
    result = str(told.return_annotation).removeprefix("Call[").removeprefix("Ask[").removesuffix("]")
    shown = told.replace(parameters=[SELF, *told.parameters.values()], return_annotation=result)
    functools.update_wrapper(method, make)
    vars(method).update(__signature__=shown)
    return method


class Attempts:
    """One call's tries: how long the next may take, and whether there is one."""

    def __init__(self, timeout: float, retries: int) -> None:
        self._deadline = time.monotonic() + timeout
        self._retries, self._made = retries, 0

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.001, self._deadline - time.monotonic())

    def pause(self, code: grpc.StatusCode, push_back: float | None = None) -> float | None:
        """Seconds to wait before the next attempt; None: there is none. `code` and `push_back` (see the function) come
        from the last attempt."""
        wait = min(FIRST_BACK_OFF * 2.0**self._made, LONGEST_BACK_OFF) * random.uniform(0.5, 1.0)
        wait = max(wait, (push_back or 0.0) * random.uniform(1.0, 1.2))  # spreads clients that were rejected at once
        final = code not in AGAIN or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and push_back is None)
        if final or self._made == self._retries or wait >= self.left:
            return None
        self._made += 1
        return wait


def _seconds(what: str, value: float) -> float:
    """Raises ValueError for what is no time to wait."""
    if not value > 0:
        raise ValueError(f"{what} is {value:g}, expected seconds above 0")
    return value
