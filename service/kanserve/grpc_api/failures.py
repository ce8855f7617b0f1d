"""Failure of a call, in the form that a transport sends: status, text, trailers, stable code and hint."""

from __future__ import annotations

import math

from kanserve.errors import Draining, LimitReached, QueueFull, RateLimited, drop_tracebacks
from kanserve.grpc_api import call_context
from kanserve.grpc_api.call_context import ID_HEADER, Code
from kanserve.observability.logs import Named

# gRPC's standard trailer for "retry, but not at once"; its retry policies honor it. By this trailer, kanserve's clients
# distinguish a limit on all requests from a limit on one.
PUSHBACK = ("grpc-retry-pushback-ms", "500")


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


def from_error(error: Exception, call: Named) -> CallFailed:
    """The failure for an error that a method raised."""
    if isinstance(error, CallFailed):
        return with_trailers(error, call)
    pushback: tuple[tuple[str, str], ...] = ()
    if isinstance(error, RateLimited):
        pushback = ((PUSHBACK[0], str(math.ceil(error.wait * 1000))),)
    elif isinstance(error, QueueFull | Draining | LimitReached):
        pushback = (PUSHBACK,)
    status, text = call_context.code(error), call_context.text(error, call.request_id)
    failure = CallFailed(status, text, pushback, code=call_context.error_code(error), hint=call_context.hint(error))
    return with_trailers(failure, call)


def with_trailers(failure: CallFailed, call: Named) -> CallFailed:
    """The failure with all trailers: the request id that the log has, the code and the hint of the error, and the
    trailers of the failure itself."""
    trailers = (
        (ID_HEADER, call.request_id),
        *call_context.error_trailers(failure.code, failure.hint),
        *failure.trailers,
    )
    return CallFailed(failure.status, failure.text, trailers, code=failure.code, hint=failure.hint)


def error_body(failure: CallFailed) -> dict[str, str]:
    """The JSON document of a failed HTTP request: Triton's `error`, the request id, the code and the hint."""
    body = {"error": failure.text, "request_id": dict(failure.trailers)[ID_HEADER], "code": failure.code}
    return body | {"help": failure.hint} if failure.hint else body
