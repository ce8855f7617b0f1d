"""Error classes of the client.

ClientError             carries `code`, the name of the gRPC status
├── Refused             the server will not do this; asking again gives the same answer
│   ├── InvalidInput    the request is wrong: names, shapes, types, values
│   ├── NotFound        no such model or version
│   ├── NotAllowed      no token or certificate, none that is known, or one that lacks the role
│   ├── TooLarge        more than a limit allows; ask for less
│   └── NotSupported    this model, or this server, does not do that
├── NoAnswer            the same call may succeed later
│   ├── Unavailable     the server cannot answer now: it starts, drains or has too much to do
│   │   └── Unreachable nothing answers at the address
│   ├── RateLimited     the server limits the rate of calls, or their bytes at once
│   └── DeadlineExceeded
└── ServerFailed        anything else that went wrong in the server or between

try:
    answer = client.infer(...)
except kanserve.NoAnswer:
    ...  # try another server
"""

from __future__ import annotations

import math


class ClientError(Exception):
    """Failed call, with a text for the user. `code` is the gRPC status name, such as "NOT_FOUND"."""

    def __init__(self, text: str, *, code: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def input_is_wrong(self) -> bool:
        """True if the request itself is wrong and cannot succeed unchanged."""
        return self.code in INPUT_CODES


class Refused(ClientError):
    """Request that the server understood and rejected."""


class InvalidInput(Refused):
    """Wrong request: the name of a tensor or layer, a shape, a type or a value."""


class NotFound(Refused):
    """Unknown model or version."""


class NotAllowed(Refused):
    """Missing permission: no token or certificate was presented, none that is known, or one that lacks the role."""


class TooLarge(Refused):
    """Request or response that exceeds a limit."""


class NotSupported(Refused):
    """Request that the model cannot serve (such as edges of a plain ONNX graph), or that the server does not offer."""


class NoAnswer(ClientError):
    """Missing response; the same call may succeed later."""


class Unavailable(NoAnswer):
    """Temporary inability of the server to respond."""


class Unreachable(Unavailable):
    """Address without a server."""


class RateLimited(NoAnswer):
    """Exceeded limit of the rate of calls, or of their bytes at once. `retry_after`: seconds that the server asks
    the client to wait; None if the server states "never"."""

    retry_after: float | None = None


class DeadlineExceeded(NoAnswer):
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


def from_status(code: str, text: str, *, unreachable: bool = False, push_back: float | None = None) -> ClientError:
    """The error for a gRPC status. `push_back`: seconds that the server asks the client to wait, infinite for "never",
    None without push-back. A limit on one request has no push-back. A limit on all requests has one."""
    if code == "RESOURCE_EXHAUSTED" and push_back is not None:
        limited = RateLimited(text, code=code)
        limited.retry_after = push_back if math.isfinite(push_back) else None
        return limited
    kind = Unreachable if unreachable else BY_CODE.get(code, ServerFailed)
    return kind(text, code=code)
