"""Error classes of the client.

ClientError             has the gRPC status name, the server's error code and its hint
├── RequestRejected     the server rejects the request, and would reject it again
│   ├── InvalidInput    the request has a wrong name, shape, type or value
│   ├── NotFound        unknown model or version
│   ├── NotAllowed      missing or unknown token or certificate, or a missing role
│   ├── TooLarge        the request or the response exceeds a limit
│   └── NotSupported    the model or the server does not support the request
├── TransientError      the same call may succeed later
│   ├── Unavailable     the server starts, shuts down or is overloaded
│   │   └── Unreachable the address has no server
│   ├── RateLimited     the server limits the rate of calls, or their bytes
│   └── DeadlineExceeded
└── ServerFailed        any other failure in the server, or between server and client; a malformed response

try:
    result = client.infer(...)
except kanserve.TransientError:
    ...  # send the request to another server
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from kanexport.shared.cli.console import CodedError


class ArgumentError(CodedError):
    """Invalid argument of a client, which is a ValueError."""


class ClientError(Exception):
    """Failed call, with a text for the user. `code` is the gRPC status name, such as "NOT_FOUND". `error_code` is the
    stable code of the error, such as "model-unknown", and `hint` is the action that solves the problem. Both are empty
    if the server sent none."""

    def __init__(self, text: str, *, code: str, error_code: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.code, self.error_code, self.hint = code, error_code, hint

    @property
    def input_is_wrong(self) -> bool:
        """True if the request itself is wrong and cannot succeed unchanged."""
        return self.code in INPUT_CODES


class RequestRejected(ClientError):
    """Request that the server understood and rejected."""


class InvalidInput(RequestRejected):
    """Wrong request: the name of a tensor or layer, a shape, a type or a value."""


class NotFound(RequestRejected):
    """Unknown model or version."""


class NotAllowed(RequestRejected):
    """Missing permission: no token or certificate was presented, none that is known, or one that lacks the role."""


class TooLarge(RequestRejected):
    """Request or response that exceeds a limit."""


class NotSupported(RequestRejected):
    """Request that the model cannot serve (such as edges of a plain ONNX graph), or that the server does not offer."""


class TransientError(ClientError):
    """Failed call that may succeed later."""


class Unavailable(TransientError):
    """Temporary inability of the server to respond."""


class Unreachable(Unavailable):
    """Address without a server."""


class RateLimited(TransientError):
    """Exceeded limit of the rate of calls, or of their bytes in flight. `retry_after`: seconds to wait, as the server
    states; None if it states "never"."""

    retry_after: float | None = None


class DeadlineExceeded(TransientError):
    """Missing response within the client's timeout."""


class ServerFailed(ClientError):
    """Failure in the server, or between the server and the client."""


# gRPC status name -> class; what is not named here is ServerFailed.
BY_CODE: dict[str, type[ClientError]] = {
    "INVALID_ARGUMENT": InvalidInput,
    "OUT_OF_RANGE": InvalidInput,
    "NOT_FOUND": NotFound,
    "UNAUTHENTICATED": NotAllowed,
    "PERMISSION_DENIED": NotAllowed,
    "RESOURCE_EXHAUSTED": TooLarge,
    "FAILED_PRECONDITION": NotSupported,
    "UNIMPLEMENTED": NotSupported,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}
INPUT_CODES = ("INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_FOUND", "FAILED_PRECONDITION")


def from_status(
    code: str,
    text: str,
    *,
    unreachable: bool = False,
    push_back: float | None = None,
    error_code: str = "",
    hint: str = "",
) -> ClientError:
    """The error for a gRPC status. `push_back`: seconds to wait, as the server states; infinite for "never", None
    without push-back. A limit on one request has no push-back. A limit on all requests has one."""
    if code == "RESOURCE_EXHAUSTED" and push_back is not None:
        limited = RateLimited(text, code=code, error_code=error_code, hint=hint)
        limited.retry_after = push_back if math.isfinite(push_back) else None
        return limited
    kind = Unreachable if unreachable else BY_CODE.get(code, ServerFailed)
    return kind(text, code=code, error_code=error_code, hint=hint)


MALFORMED = (ValueError, LookupError, TypeError, OverflowError)


def malformed(what: str, error: Exception) -> Exception:
    """ServerFailed for a response that does not fit the request, the metadata of the model, or other responses.
    `what`: subject of the message; `error`: what its reader raised, which is returned if the caller caused it."""
    if isinstance(error, ArgumentError):
        return error
    return from_status(
        "INTERNAL",
        f"{what} is malformed: {error}",
        error_code="response-malformed",
        hint="check that the address is a kanserve server of this version, and that its replicas are alike",
    )


@contextlib.contextmanager
def well_formed(what: str) -> Iterator[None]:
    """Context that reads or joins responses. Raises the error of `malformed` for one that does not fit."""
    try:
        yield
    except MALFORMED as error:
        raise malformed(what, error) from None
