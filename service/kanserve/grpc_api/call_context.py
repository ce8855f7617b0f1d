"""Context of a call in progress: request id and its header, caller, deadline, and the facts for its log line.

It also has the failure of a call, in the form that a transport sends: gRPC status, text, trailers, code and hint.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import math
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote

from kanserve import errors
from kanserve.auth.authenticator import RequestMetadata as RequestMetadata
from kanserve.auth.permissions import EVERYONE, NEEDS, Principal, Role
from kanserve.errors import (
    Draining,
    KanserveError,
    LimitReached,
    QueueFull,
    RateLimited,
    ServerDeadlineExceeded,
    drop_tracebacks,
)
from kanserve.observability import logs

ID = re.compile(r"[\x21-\x7e]{1,128}")
ID_HEADER = "x-request-id"
PREFIX = secrets.token_hex(4)  # of ids made here: other processes' differ

_made = itertools.count(1)


class Call:
    """Call in progress.

        has_client_id  whether the id came with the call
        deadline       on the monotonic clock
        metadata       only of a stream
        caller         principal that sent the call
        facts          fields of the access log line; never tensor contents

    A call without an id gets one when the id is first read.
    """

    __slots__ = ("_request_id", "caller", "deadline", "facts", "has_client_id", "message_id", "metadata")

    def __init__(self, request_id: str, has_client_id: bool, deadline: float | None) -> None:
        self._request_id, self.has_client_id, self.deadline = request_id, has_client_id, deadline
        self.facts: dict[str, object] = {}
        self.metadata: tuple[tuple[str, str | bytes], ...] = ()
        self.message_id = ""
        self.caller: Principal = EVERYONE

    @property
    def request_id(self) -> str:
        """Printable, 128 characters at most."""
        if not self._request_id:
            self._request_id = _new_id()
        return self._request_id

    @property
    def caller_name(self) -> str:
        """The name of the caller, "" without one."""
        return self.caller.name

    def adopt(self, message_id: str) -> None:
        """Use the id inside the message, unless the metadata named one."""
        self.message_id = message_id
        if not self.has_client_id and ID.fullmatch(message_id):
            self._request_id = message_id

    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def begin_call(arrival: RequestMetadata) -> Call:
    """A call that begins now. Log lines that are written during the call have its id."""
    request_id = ""
    for key, value in arrival.metadata:
        if key == ID_HEADER and isinstance(value, str) and ID.fullmatch(value):
            request_id = value
    deadline = None if arrival.remaining is None else time.monotonic() + arrival.remaining
    call = Call(request_id, bool(request_id), deadline)
    logs.CALL.set(call)
    return call


def _new_id() -> str:
    return f"{PREFIX}{next(_made):08x}"


def request_id(header: bytes | None, message_id: bytes) -> str:
    """The request id of a call: from its header, or else from its message, or else a new one."""
    for id in (header, message_id):
        if id and ID.fullmatch(text := id.decode("ascii", "replace")):
            return text
    return _new_id()


Q = TypeVar("Q")
A = TypeVar("A")
Method = Callable[[Q, Call], Awaitable[A]]


def with_deadline(method: Method[Q, A], seconds: float | None, name: str) -> Method[Q, A]:
    """The method with a deadline of `seconds`, if the client's deadline is later or absent. Administrative methods
    have no limit, because a model may take any time to load. `name`: as in the table of permissions."""
    if seconds is None or NEEDS.get(name) is Role.ADMIN:
        return method

    async def bounded(data: Q, call: Call) -> A:
        end = time.monotonic() + seconds
        if call.deadline is not None and call.deadline <= end:
            return await method(data, call)
        call.deadline = end
        try:
            async with asyncio.timeout(seconds):
                return await method(data, call)
        except TimeoutError:
            raise ServerDeadlineExceeded(seconds) from None

    return bounded


class Code(enum.IntEnum):
    """gRPC status codes with their numbers on the wire (grpc.io, "Status codes and their use in gRPC")."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


CODES: dict[type[errors.KanserveError], Code] = {
    errors.BadRequest: Code.INVALID_ARGUMENT,
    errors.NotFound: Code.NOT_FOUND,
    errors.Unavailable: Code.UNAVAILABLE,
    errors.DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    errors.ResourceExhausted: Code.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: Code.UNAUTHENTICATED,
    errors.Forbidden: Code.PERMISSION_DENIED,
    errors.FailedPrecondition: Code.FAILED_PRECONDITION,
    errors.Unsupported: Code.UNIMPLEMENTED,
}
# Texts quote what the client sent; trailers beyond 8 KiB may be dropped on the
# way, and gRPC writes up to three characters per byte.
TEXT_BYTES, HINT_BYTES = 1200, 600
CODE_TRAILER, HELP_TRAILER = "kan-error-code", "kan-error-help"
INTERNAL_ERROR = "internal-error"
# gRPC's standard trailer for "retry, but not at once"; its retry policies honor it. By this trailer, kanserve's clients
# distinguish a limit on all requests from a limit on one.
PUSHBACK = ("grpc-retry-pushback-ms", "500")
PLAIN = "".join(chr(byte) for byte in range(0x20, 0x7F) if byte != 0x25)  # all other characters are escaped


def code(error: BaseException) -> Code:
    """The gRPC status of an error; INTERNAL for every class that is not in the table, because that is a bug."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), Code.INTERNAL)


def text(error: BaseException, request_id: str) -> str:
    """The error text for the client. For a bug it contains only the id under which the log explains it."""
    if code(error) is Code.INTERNAL:
        return f"internal error; the server's log explains it under request id {request_id}"
    return _bounded(str(error), TEXT_BYTES)


def error_code(error: BaseException) -> str:
    """The stable code of an error for the client and the log."""
    return error.code if isinstance(error, KanserveError) else INTERNAL_ERROR


def hint(error: BaseException) -> str:
    """The hint of an error for the client; "" for a bug."""
    if not isinstance(error, KanserveError) or code(error) is Code.INTERNAL:
        return ""
    return _bounded(error.hint, HINT_BYTES)


def error_trailers(error_code: str, hint: str) -> tuple[tuple[str, str], ...]:
    """The trailers that pass on the code and the hint of an error; none for an empty one."""
    named = ((CODE_TRAILER, error_code), (HELP_TRAILER, percent_encoded(hint)))
    return tuple((name, value) for name, value in named if value)


def percent_encoded(text: str) -> str:
    """A text in printable ASCII, with other characters escaped as in `grpc-message`."""
    return quote(text, safe=PLAIN)


def _bounded(text: str, most: int) -> str:
    return text.encode(errors="replace")[:most].decode(errors="ignore")


class CallFailed(Exception):
    """Failure of a call, in the form that the transport sends to the client.

    status    gRPC status
    text      message
    trailers  names and values; of a failure that `Unary.refused` or `Stream.refused` has returned, all of them
    code      stable code of the error
    hint      the action that solves the problem, or empty
    """

    def __init__(
        self, status: Code, text: str, trailers: tuple[tuple[str, str], ...] = (), *, code: str, hint: str = ""
    ) -> None:
        super().__init__(text)
        self.status, self.text, self.trailers = status, text, trailers
        self.code, self.hint = code, hint

    def forget(self) -> None:
        """Drop the tracebacks of this error, as `drop_tracebacks` does."""
        drop_tracebacks(self)


def from_error(error: Exception, call: logs.Named) -> CallFailed:
    """The failure for an error that a method raised."""
    if isinstance(error, CallFailed):
        return with_trailers(error, call)
    pushback: tuple[tuple[str, str], ...] = ()
    if isinstance(error, RateLimited):
        pushback = ((PUSHBACK[0], str(math.ceil(error.wait * 1000))),)
    elif isinstance(error, QueueFull | Draining | LimitReached):
        pushback = (PUSHBACK,)
    status, shown = code(error), text(error, call.request_id)
    return with_trailers(CallFailed(status, shown, pushback, code=error_code(error), hint=hint(error)), call)


def with_trailers(failure: CallFailed, call: logs.Named) -> CallFailed:
    """The failure with all trailers: the request id that the log has, the code and the hint of the error, and the
    trailers of the failure itself."""
    trailers = (
        (ID_HEADER, call.request_id),
        *error_trailers(failure.code, failure.hint),
        *failure.trailers,
    )
    return CallFailed(failure.status, failure.text, trailers, code=failure.code, hint=failure.hint)


def error_body(failure: CallFailed) -> dict[str, str]:
    """The JSON document of a failed HTTP request: Triton's `error`, the request id, the code and the hint."""
    body = {"error": failure.text, "request_id": dict(failure.trailers)[ID_HEADER], "code": failure.code}
    return body | {"help": failure.hint} if failure.hint else body
