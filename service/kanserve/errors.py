"""Error classes of kanserve. `CODES` in `grpc_api/call_context.py` maps each to its gRPC status code.

Clients may receive the text of every class except BackendError. A text names the fault and the expected value. It
contains no path and no class name. `code` is the stable id of the error and `hint` the action that solves the problem;
`docs/reference/errors.md` lists all codes.
"""

from __future__ import annotations

import enum

from kanexport.shared.cli.console import kebab

UNKNOWN = "_unknown_"  # names a model, a method or a route that does not exist, in metrics and in the access log


class KanserveError(Exception):
    """Root of all errors that kanserve raises on purpose.

    code  stable id of the error, such as "model-unknown"; without one, the class name in lower case
    hint  the action that solves the problem, or empty
    """

    code: str = ""

    def __init__(self, text: str = "", *, code: str = "", hint: str = "") -> None:
        super().__init__(text)
        self.code = code or self.code or kebab(type(self).__name__)
        self.hint = hint


class ConfigError(KanserveError):
    """Settings that cannot work. The server finds them before it starts."""


class LoadReason(enum.StrEnum):
    """Reasons why a version was not loaded: the values of the metric label `reason`."""

    MANIFEST = "manifest"
    CONFIG = "config"
    INTEGRITY = "integrity"
    UNREADABLE = "unreadable"
    STRUCTURE = "structure"
    TIME = "time"
    MEMORY = "memory"
    LIMIT = "limit"
    CRASH = "crash"
    RUNTIME = "runtime"
    MISMATCH = "mismatch"
    REFERENCE = "reference"
    INTERNAL = "internal"


class LoadError(KanserveError):
    """Failure to load a version. `reason` is the label, the text is the explanation."""

    def __init__(self, reason: LoadReason, text: str, *, code: str = "", hint: str = "") -> None:
        super().__init__(text, code=code, hint=hint)
        self.reason = reason


class BadRequest(KanserveError):
    """Invalid request; a retry fails again."""


class NotFound(KanserveError):
    """Unknown model or version."""


class Unavailable(KanserveError):
    """Temporary inability of the server to respond; a retry may succeed."""


class QueueFull(Unavailable):
    """Full request queue of a model."""

    def __init__(self) -> None:
        super().__init__(
            "Exceeds maximum queue size",
            code="queue-full",
            hint="send the request again later, or send fewer requests at the same time",
        )


class QueueTimeout(Unavailable):
    """Expired queue timeout of a request. The server did not execute the request."""

    def __init__(self) -> None:
        super().__init__(
            "Request timeout expired",
            code="queue-timeout",
            hint="send the request again later, or with a larger `timeout` parameter",
        )


class Draining(Unavailable):
    """Graceful shutdown in progress: the server accepts no new requests."""

    def __init__(self) -> None:
        super().__init__(
            "GRPC server is shutting down and has stopped accepting new requests.",
            code="server-shutting-down",
            hint="send the request to another server, or again later",
        )


class DeadlineExceeded(KanserveError):
    """Expired client deadline of a queued request. The server did not execute the request."""

    def __init__(self) -> None:
        super().__init__(
            "the deadline passed before the request was executed",
            code="deadline-exceeded",
            hint="set a longer timeout in the client",
        )


class ServerDeadlineExceeded(DeadlineExceeded):
    """Expired time limit of the server for one call."""

    def __init__(self, seconds: float) -> None:
        KanserveError.__init__(
            self,
            f"the call took longer than {seconds:g} s, the server's limit",
            code="call-too-long",
            hint="request less in one call",
        )


class ResourceExhausted(KanserveError):
    """Request that exceeds a limit; the hint says how to request less."""


class LimitReached(ResourceExhausted):
    """Limit on all requests, or on all requests of one caller. The same request may pass later, and the response
    states when."""


class WatchesLimited(LimitReached):
    """Limit of open watches reached; a retry may succeed."""


class ConcurrencyLimited(LimitReached):
    """Limit of concurrent calls reached; a retry may succeed."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"the server handles {most} calls at the same time, which is its limit",
            code="too-many-calls",
            hint="send the request again later",
        )


class InflightBytesLimited(LimitReached):
    """Limit of bytes of all messages in flight reached; a retry may succeed."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"the messages of all calls take more than {most} bytes, the server's limit",
            code="too-many-bytes-in-flight",
            hint="send the request again later",
        )


class RequestBufferLimited(LimitReached):
    """Limit of bytes of incomplete requests reached; a retry may succeed."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"incomplete requests take more than {most} bytes, the server's limit",
            code="too-many-incomplete-bytes",
            hint="send the request again later, with fewer large requests at the same time",
        )


class RateLimited(LimitReached):
    """Rate limit of the caller reached; a retry may succeed."""

    def __init__(self, name: str, rate: float, wait: float) -> None:
        """`wait`: seconds until the server accepts the next call of this caller."""
        super().__init__(
            f"{name} sends more than {rate:g} calls per second, its limit",
            code="rate-limited",
            hint="send the request again later",
        )
        self.wait = wait


class Unauthenticated(KanserveError):
    """Missing or invalid credential. The text never contains the credential."""


class Forbidden(KanserveError):
    """Missing role of an authenticated caller."""


class FailedPrecondition(KanserveError):
    """Request that the model does not support."""


class Unsupported(KanserveError):
    """Request that the protocol defines and this server does not implement."""


class BackendError(KanserveError):
    """Failure of the runtime while it executed a graph. The text is for the log only."""


def text_and_hint(error: KanserveError) -> str:
    """Text of an error, followed by its hint if it has one."""
    return f"{error}; {error.hint}" if error.hint else str(error)


def log_facts(error: KanserveError) -> dict[str, str]:
    """Log fields of an error in addition to its text: its code, and its hint unless it is empty."""
    facts = {"error_code": error.code, "help": error.hint}
    return {name: value for name, value in facts.items() if value}


def drop_tracebacks(error: BaseException) -> None:
    """Drop the tracebacks of an error, of its cause and of its context, after they are logged. Their frames hold the
    request's message, and often the error too. Such a cycle keeps the message until the garbage collector runs."""
    chain = [error]
    while chain:
        current = chain.pop()
        chain += [before for before in (current.__cause__, current.__context__) if before is not None]
        current.__cause__ = current.__context__ = current.__traceback__ = None
