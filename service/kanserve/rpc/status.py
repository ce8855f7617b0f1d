"""From domain error to gRPC status: one table, used in one place (`guard.py`)."""

from __future__ import annotations

import grpc

from kanserve import errors

CODES: dict[type[errors.KanserveError], grpc.StatusCode] = {
    errors.BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.NotPossible: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}
# Texts quote what the client sent; trailers beyond 8 KiB may be dropped on the
# way, and gRPC writes up to three characters per byte.
TEXT_LIMIT = 1200


def code(error: BaseException) -> grpc.StatusCode:
    """INTERNAL for everything that has no place in the table: that is a bug."""
    for kind in type(error).__mro__:
        found = CODES.get(kind)
        if found is not None:
            return found
    return grpc.StatusCode.INTERNAL


def text(error: BaseException, request_id: str) -> str:
    """What the client reads. For a bug nothing but the id under which the log explains it."""
    if code(error) is grpc.StatusCode.INTERNAL:
        return f"internal error; the server's log explains it under request id {request_id}"
    return str(error).encode(errors="replace")[:TEXT_LIMIT].decode(errors="ignore")
