"""Shared base of the blocking and the asyncio client, with the only constructor: address, TLS, retries, back-off and
error translation."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

import grpc
import grpc.aio

from kanserve.client import errors, targets
from kanserve.client.calls import Call, Request
from kanserve.client.errors import ArgumentError, ClientError
from kanserve.client.targets import PLAIN, SECURE, Target
from kanserve.system import pem

C = TypeVar("C")
R = TypeVar("R")
S = TypeVar("S", bound="Peer[Any]")
M = TypeVar("M", bound=Callable[..., Any])
SELF = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)

# A server that hangs keeps its connection open. During a call, the client sends a ping after PING seconds without data.
# Without a response within PONG seconds it closes the connection, and a retry reaches another server. gRPC core has two
# time limits, for keepalive pings and for the pings of its flow control, which take the place of the first.
PING_SECONDS, PONG_SECONDS = 10.0, 10.0
FIRST_BACK_OFF, LONGEST_BACK_OFF = 0.1, 2.0  # seconds; doubles, with jitter
PUSH_BACK = "grpc-retry-pushback-ms"  # metadata key of gRPC retries (gRFC A6)
ERROR_CODE, ERROR_HELP = "kan-error-code", "kan-error-help"  # trailers; the second is percent-encoded
AGED = "connection-closed-by-age"  # error code
# RESOURCE_EXHAUSTED only with push-back; CANCELLED comes from a server or a proxy that ends, unless this client closes.
AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
CLOSED_HERE = "Channel closed!"  # details of gRPC


class Peer(ABC, Generic[C]):
    """Address of one or several servers, its channel, and the metadata of every call to it."""

    def __init__(
        self,
        url: str | Sequence[str],
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
        """Client of one or several servers. It connects at the first call. Raises ValueError for invalid arguments.

        If there are several addresses, or a DNS name of several servers, calls take turns (round robin). Servers that
        are not reachable or not ready get none, and a retry goes to another server. A server with errors for most of
        its calls gets none for 10 s or longer.

        Three retries take about 0.5 s and eight about 8 s, or longer if the server states a longer wait.

        url             HOST:PORT, or grpcs://HOST:PORT for TLS; the arguments for TLS enable it too. Several servers:
                        a list, HOST:PORT,HOST:PORT, or dns:///NAME:PORT, which is resolved again and again
        timeout         time limit of each call in seconds, retries included
        retries         largest number of retries while the server is unavailable, cancels the call or limits the rate
        ca              PEM file of the certificate authorities to trust; default: those of the system
        cert, key       PEM files of the client certificate and its private key
        server_name     name in the server's certificate, if it is not the host
        token           token that the client sends with each call, over TLS or on this machine
        token_in_clear  send the token without TLS to other machines too
        """
        if retries < 0:
            raise ArgumentError(
                f"retries is {retries}, expected 0 or more", code="argument-invalid", hint="use 0 for no retries"
            )
        self._target = targets.parse(url)
        self.url = self._target.url
        self.timeout = _seconds("timeout", timeout)
        self.retries = retries
        tls = Tls.from_files(ca, cert, key, server_name)
        self._secure = is_secure(self.url, tls)
        self._metadata = carried(token, self.url, secure=self._secure, in_clear=token_in_clear)
        self._channel = self._open(tls)
        self._methods: dict[tuple[str, Any], Any] = {}  # callables of gRPC, by path and decoder

    @abstractmethod
    def _open(self, tls: Tls) -> C:
        """The channel. Raises ValueError."""

    def within(self: S, seconds: float) -> S:
        """Client on the same connection with another time limit of its calls: `client.within(0.2).infer(...)`. Closing
        one client closes both. Raises ValueError."""
        other = copy.copy(self)
        other.timeout = _seconds("seconds", seconds)
        return other

    def _send(self, call: Call[Any]) -> Any:
        """Callable of gRPC that sends the call. Raises ArgumentError for a change of one server if there are
        several."""
        if call.single:
            targets.require_single(self.url, call.path.rpartition("/")[2])
        key = call.path, call.parse
        method = self._methods.get(key)
        if method is None:
            channel: Any = self._channel
            shape = channel.unary_stream if call.stream else channel.unary_unary
            method = shape(call.path, request_serializer=None, response_deserializer=call.parse)
            self._methods[key] = method
        return method

    def _attempts(self, call: Call[Any]) -> Attempts:
        return Attempts(self.timeout, self.retries if call.again else 0)

    def _result(self, call: Call[R], message: Any) -> R:
        """Result of a call from its response. Raises ServerFailed for a malformed one."""
        try:
            return call.result(message)
        except errors.MALFORMED as error:
            raise errors.malformed(f"the response of {self.url} to {call.path.rpartition('/')[2]}", error) from None

    def _translated(self, call: Call[Any], error: grpc.RpcError, attempts: Attempts) -> ClientError:
        """Client error for the last error of a call, after its attempts."""
        code, details = error.code().name, attempts.details(error, secure=self._secure)
        if code == "UNAVAILABLE" and (cause := not_connected(details, secure=self._secure)):
            why, hint = cause
            text = f"no connection to the server at {self.url}: {why}"
            return errors.from_status(code, text, unreachable=True, hint=hint)
        if code == "UNAVAILABLE" and UNHEALTHY.search(details):
            return errors.from_status(code, f"no server at {self.url} is ready: {details}")
        if code == "UNAVAILABLE" and "connect" in details.lower():
            return errors.from_status(code, f"no server at {self.url}", unreachable=True)
        words = {
            "UNAVAILABLE": f"the server at {self.url} is not available: {details}",
            "DEADLINE_EXCEEDED": f"no response from {self.url} within {self.timeout:g} s",
            "UNIMPLEMENTED": f"the server at {self.url} does not offer {call.path.rpartition('/')[2]}: {details}",
        }
        plain = details if code in errors.BY_CODE else f"the server at {self.url} failed ({code}): {details}"
        return errors.from_status(
            code,
            words.get(code, plain),
            push_back=push_back(error),
            error_code=_trailer(error, ERROR_CODE),
            hint=unquote(_trailer(error, ERROR_HELP)),
        )


# Parts of Triton's texts that say nothing to a user of this client, which sends no request id and no configuration.
OF_TRITON = re.compile(r"\[request id: <id_unknown>\] | NOTE: Setting a non-zero max_batch_size .*", re.DOTALL)


def closed_by_age(error: grpc.RpcError) -> bool:
    """True if the server has ended a stream only because its connection reached the maximum age."""
    return bool(_trailer(error, ERROR_CODE) == AGED)


def _trailer(error: grpc.RpcError, name: str) -> Any:
    """A trailer of the server, text or bytes; "" without it."""
    trailers: Any = error.trailing_metadata()
    return dict(trailers or ()).get(name, "")


def push_back(error: grpc.RpcError) -> float | None:
    """Seconds to wait, as the server states; infinite for "never", None without push-back."""
    value = _trailer(error, PUSH_BACK)
    if value == "":
        return None
    # gRFC A6: a value that is not a number of milliseconds from 0 means that the client does not retry.
    return float(value) / 1000 if isinstance(value, str) and value.isascii() and value.isdigit() else math.inf


def as_method(method: M, make: Callable[..., Request[Any]]) -> M:
    """Give the method the name, signature and docstring of the function that makes its call, and its result type,
    for `help`."""
    signature = inspect.signature(make)
    result = str(signature.return_annotation).removeprefix("Call[").removeprefix("Request[").removesuffix("]")
    shown = signature.replace(parameters=[SELF, *signature.parameters.values()], return_annotation=result)
    functools.update_wrapper(method, make)
    vars(method).update(__signature__=shown)
    return method


class Attempts:
    """Retry budget of one call: the timeout of the next attempt, and whether there is one."""

    def __init__(self, timeout: float, retries: int) -> None:
        self._deadline = time.monotonic() + timeout
        self._retries, self._made = retries, 0
        self._details: list[str] = []

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.001, self._deadline - time.monotonic())

    def after(self, error: grpc.RpcError) -> float | None:
        """Seconds to wait after a failed attempt; None without a next attempt."""
        self._details.append(error.details() or "")
        if error.details() == CLOSED_HERE:
            return None
        return self.pause(error.code(), push_back(error))

    def details(self, error: grpc.RpcError, *, secure: bool) -> str:
        """Details of the last error, without parts for other clients. If it found no server, those of the first attempt
        that failed to connect for a known reason: of several addresses, gRPC names the last one that failed."""
        text = OF_TRITON.sub("", error.details() or "the server gave no reason")
        if "connect" not in text.lower():
            return text
        return next((other for other in (text, *self._details) if not_connected(other, secure=secure)), text)

    def pause(self, code: grpc.StatusCode, push_back: float | None = None) -> float | None:
        """Seconds to wait before the next attempt; None without a next attempt. `code` and `push_back` (see the
        function) are those of the last attempt."""
        wait = min(FIRST_BACK_OFF * 2.0**self._made, LONGEST_BACK_OFF) * random.uniform(0.5, 1.0)
        wait = max(wait, (push_back or 0.0) * random.uniform(1.0, 1.2))  # spreads clients that were rejected at once
        final = code not in AGAIN or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and push_back is None)
        if final or self._made == self._retries or wait >= self.left:
            return None
        self._made += 1
        return wait


def _seconds(what: str, value: float) -> float:
    """A time limit in seconds. Raises ValueError for an invalid one."""
    if not value > 0:
        raise ArgumentError(
            f"{what} is {value:g}, expected seconds above 0", code="argument-invalid", hint="pass a number such as 30"
        )
    return value


OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The defaults of gRPC are 1 s and 2 minutes; the retries of the client would end before the next connection.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
PRESENT = "if the server requires a client certificate, pass cert and key (--cert, --key)"
# Messages of gRPC core for a failed connection -> the cause and a hint; the first match counts.
FAILURES = (
    (
        r"Hostname Verification",
        "its certificate is for another name",
        "pass the name in the certificate as server_name (--server-name)",
    ),
    (r"WRONG_VERSION_NUMBER", "it does not use TLS", "connect without TLS: HOST:PORT"),
    (
        r"CERTIFICATE_VERIFY_FAILED: ([\w -]+)",
        "its certificate is not trusted ({0})",
        "pass the file of the certificate authority as ca (--ca)",
    ),
    (r"TSI_|SSL_ERROR", "the TLS handshake failed", PRESENT),
)
UNHEALTHY = re.compile(
    r"backend unhealthy|health check call failed"
)  # in the details of gRPC core, with several servers
CLOSED, CLOSES = "Socket closed", "it closes the connection immediately"
CLOSED_HINTS = {False: "if the server requires TLS, connect to grpcs://HOST:PORT", True: PRESENT}


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files and the server name of a TLS connection. None and "" mean unset."""

    ca: Path | None
    cert: Path | None
    key: Path | None
    server_name: str

    @classmethod
    def from_files(
        cls, ca: str | Path | None, cert: str | Path | None, key: str | Path | None, server_name: str
    ) -> Tls:
        """The options from file names. Raises ValueError if one of `cert` and `key` is missing."""
        if bool(cert) != bool(key):
            raise ArgumentError(
                "only one of the client certificate (cert) and its private key (key) is set",
                code="client-certificate-incomplete",
                hint="pass both cert and key (--cert, --key), or none",
            )
        paths = [Path(name) if name else None for name in (ca, cert, key)]
        return cls(paths[0], paths[1], paths[2], server_name)

    @property
    def enabled(self) -> bool:
        """True if any option of TLS is set."""
        return bool(self.ca or self.cert or self.server_name)


def carried(token: str, url: str, *, secure: bool, in_clear: bool) -> tuple[tuple[str, str], ...]:
    """The metadata of every call. Raises ValueError for an invalid token, and for a token that others could read on
    the way."""
    if not token:
        return ()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ArgumentError(
            "the token has characters that are not allowed in a token",
            code="token-invalid",
            hint="pass the token as `kanserve token new` printed it",
        )
    if not (secure or in_clear or targets.parse(url).local):
        raise ArgumentError(
            f"the client would send the token to {url} without TLS",
            code="token-without-tls",
            hint="connect to grpcs://HOST:PORT; on a trusted network, set token_in_clear (--token-in-clear)",
        )
    return (("authorization", f"Bearer {token}"),)


def is_secure(url: str, tls: Tls) -> bool:
    """True if the connection uses TLS. Raises ValueError if address and options contradict each other."""
    scheme = targets.parse(url).scheme
    if scheme == PLAIN and tls.enabled:
        raise ArgumentError(
            f"{url} is an address without TLS, which conflicts with certificates or a server name",
            code="url-without-tls",
            hint=f"connect to {SECURE}{url.removeprefix(PLAIN)}, or remove the options for TLS",
        )
    return scheme == SECURE or tls.enabled


def connect(target: Target, tls: Tls, library: Any) -> Any:
    """A channel that connects at its first use. `library`: grpc, or grpc.aio for the running event loop. Raises
    ValueError, also for invalid files."""
    secure = is_secure(target.url, tls)
    # A proxy of the environment (http_proxy) reads each call without TLS, and cannot reach loopback of this machine.
    proxy = ("grpc.enable_http_proxy", int(secure and not target.local))
    pings = {
        "grpc.keepalive_time_ms": PING_SECONDS,
        "grpc.keepalive_timeout_ms": PONG_SECONDS,
        "grpc.http2.ping_timeout_ms": PONG_SECONDS,
    }
    options = [*OPTIONS, *((name, round(1000 * each)) for name, each in pings.items()), *target.options(), proxy]
    if not secure:
        return library.insecure_channel(target.name(), options=options)
    if server_name := target.server_name(tls.server_name):
        options.append(("grpc.ssl_target_name_override", server_name))
    trusted = pem.authorities(tls.ca) if tls.ca else None
    own = pem.identity(tls.cert, tls.key) if tls.cert and tls.key else None
    credentials = grpc.ssl_channel_credentials(trusted, own.key if own else None, own.chain if own else None)
    return library.secure_channel(target.name(), credentials, options=options)


def not_connected(details: str, *, secure: bool) -> tuple[str, str] | None:
    """Cause and hint of a failed connection, if a server was found and its load is not the cause; otherwise None."""
    if "connect" not in details:
        return None
    for pattern, words, hint in FAILURES:
        if match := re.search(pattern, details):
            return words.format(*match.groups()), hint
    return (CLOSES, CLOSED_HINTS[secure]) if CLOSED in details else None
