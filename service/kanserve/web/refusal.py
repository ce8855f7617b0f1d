"""What is wrong with a request as HTTP, and the HTTP status of every error."""

from __future__ import annotations

from http import HTTPStatus

from kanserve.errors import BadRequest, Limited
from kanserve.rpc.status import Code

CLIENT_GONE = 499  # nginx's, for a caller that did not wait

# Triton's for the codes that it has; google.rpc.Code's for the rest.
STATUS: dict[Code, int] = {
    Code.OK: HTTPStatus.OK,
    Code.CANCELLED: CLIENT_GONE,
    Code.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    Code.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.RESOURCE_EXHAUSTED: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    Code.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
    Code.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    Code.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    Code.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Refused(BadRequest):
    """A request that HTTP itself has a status for; `headers` say more, as Allow does."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.headers = int(status), headers or {}


def status(outcome: Code, error: BaseException | None) -> int:
    """Of a call that ended with `outcome`, for `error`."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, Limited):  # a limit on all requests: the same one may pass later
        return int(HTTPStatus.TOO_MANY_REQUESTS)
    return int(STATUS[outcome])
