"""Everything kanserve raises on purpose. `grpc_api/call_context.py` gives each its gRPC code.

    KanserveError
    ├── ConfigError           the settings cannot work
    ├── LoadError             a model version cannot be served; carries a reason label
    ├── BadRequest            the request is wrong, and stays wrong
    ├── NotFound              no such model or version
    ├── Unavailable           not now; trying again makes sense
    │   ├── QueueFull         too much is waiting for this model
    │   ├── QueueTimeout      waited longer than the request allowed
    │   └── Draining          the server is on its way out
    ├── DeadlineExceeded      the caller's deadline passed before the work began
    │   └── TookTooLong       the call took longer than the server lets any take
    ├── Exhausted             the request asks for more than a limit allows
    │   └── Limited           all requests together exceed a limit: the same one may pass later
    │       ├── TooManyCalls      the server handles as many calls as its limit
    │       ├── TooManyWatches    as many watches are open as the limit allows
    │       ├── TooOften          this caller has used up its rate
    │       ├── TooManyBytes      the messages of all calls reach the limit of bytes
    │       └── TooManyUnfinished incomplete requests reach their limit of bytes
    ├── Unauthenticated       nobody knows who is calling
    ├── Forbidden             who is calling may not do that
    ├── NotPossible           this model cannot do that
    ├── Unsupported           this server does not do that
    └── BackendError          the runtime failed; its words stay in the log

The text of every class but BackendError may reach a client: it names what is
wrong and what would be right, never a path or a class.
"""

from __future__ import annotations

import enum


class KanserveError(Exception):
    """The root: whatever derives from it was raised on purpose."""


class ConfigError(KanserveError):
    """Settings that cannot work, found before the server starts anything. `hint`: what to do, if the text does not say
    it."""

    def __init__(self, text: str, *, hint: str = "") -> None:
        super().__init__(text)
        self.hint = hint


class LoadReason(enum.StrEnum):
    """Why a version was not loaded: the values of the metric label `reason`."""

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
    """A version that cannot be served. `reason` is the label, the text the explanation."""

    def __init__(self, reason: LoadReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class BadRequest(KanserveError):
    """The request is wrong; sending it again gives the same answer."""


class NotFound(KanserveError):
    """No such model or version."""


class Unavailable(KanserveError):
    """Cannot be answered now; the same request may succeed later."""


class QueueFull(Unavailable):
    """Too many requests wait for this model."""

    def __init__(self) -> None:
        super().__init__("Exceeds maximum queue size")


class QueueTimeout(Unavailable):
    """The request's own `timeout` passed while it waited; it was not run."""

    def __init__(self) -> None:
        super().__init__("Request timeout expired")


class Draining(Unavailable):
    """The server no longer takes requests."""

    def __init__(self) -> None:
        super().__init__("GRPC server is shutting down and has stopped accepting new requests.")


class DeadlineExceeded(KanserveError):
    """The caller's deadline passed while the request waited; it was not run."""

    def __init__(self) -> None:
        super().__init__("the deadline passed before the request was run")


class ServerDeadlineExceeded(DeadlineExceeded):
    """The call took longer than the server lets any take."""

    def __init__(self, seconds: float) -> None:
        KanserveError.__init__(
            self, f"the call took longer than {seconds:g} s, the server's limit; ask for less in one"
        )


class ResourceExhausted(KanserveError):
    """The request asks for more than a limit allows; the text tells how to ask for less."""


class LimitReached(ResourceExhausted):
    """A limit on all requests, or on all requests of one caller. The same request may pass later, and the response
    states when."""


class TooManyWatches(LimitReached):
    """As many watches are open as the limit allows; trying again makes sense."""


class ConcurrencyLimited(LimitReached):
    """The server handles as many calls as it may; trying again makes sense."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the server handles {most} calls at once, which is its limit; try again later")


class TooManyBytes(LimitReached):
    """The messages of all calls are as large together as they may be; trying again makes sense."""

    def __init__(self, most: int) -> None:
        super().__init__(f"the messages of all calls take more than {most} bytes, the server's limit; try again later")


class TooManyUnfinished(LimitReached):
    """Requests that have not arrived completely reach their limit of bytes; trying again makes sense."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"requests that have not arrived completely take more than {most} bytes, the server's limit; "
            "try again later, with fewer large requests at once"
        )


class RateLimited(LimitReached):
    """This caller has asked as often as it may; trying again makes sense."""

    def __init__(self, name: str, rate: float, wait: float) -> None:
        """`wait`: seconds until the server accepts the next call of this caller."""
        super().__init__(f"{name} may ask {rate:g} times per second, which is its limit; try again later")
        self.wait = wait


class Unauthenticated(KanserveError):
    """No credential, or none that is known and valid. The text never has it."""


class Forbidden(KanserveError):
    """The caller is known and lacks the role that this needs."""


class FailedPrecondition(KanserveError):
    """The model is there but cannot do what is asked."""


class Unsupported(KanserveError):
    """The protocol knows it, this server does not do it."""


class BackendError(KanserveError):
    """The runtime failed while running a graph. The text is for the log alone."""


def let_go(error: BaseException) -> None:
    """Drop the tracebacks of an error, of its cause and of its context, after they are logged. Their frames hold the
    request's message, and often the error too. Such a cycle keeps the message until the garbage collector runs."""
    chain = [error]
    while chain:
        one = chain.pop()
        chain += [before for before in (one.__cause__, one.__context__) if before is not None]
        one.__cause__ = one.__context__ = one.__traceback__ = None
