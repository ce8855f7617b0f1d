"""From domain error to gRPC status: one table, used in one place (`guard.py`)."""

from __future__ import annotations

import enum

from kanserve import errors


class Code(enum.IntEnum):
    """gRPC's status codes, by their numbers on the wire (grpc.io, "Status codes and their use in gRPC")."""

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
    errors.Exhausted: Code.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: Code.UNAUTHENTICATED,
    errors.Forbidden: Code.PERMISSION_DENIED,
    errors.NotPossible: Code.FAILED_PRECONDITION,
    errors.Unsupported: Code.UNIMPLEMENTED,
}
# Texts quote what the client sent; trailers beyond 8 KiB may be dropped on the
# way, and gRPC writes up to three characters per byte.
TEXT_BYTES = 1200


def code(error: BaseException) -> Code:
    """INTERNAL for everything that has no place in the table: that is a bug."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), Code.INTERNAL)


def text(error: BaseException, request_id: str) -> str:
    """What the client reads. For a bug nothing but the id under which the log explains it."""
    if code(error) is Code.INTERNAL:
        return f"internal error; the server's log explains it under request id {request_id}"
    return str(error).encode(errors="replace")[:TEXT_BYTES].decode(errors="ignore")
