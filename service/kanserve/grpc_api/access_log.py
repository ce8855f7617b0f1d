"""Access log: which calls have a line, and the line itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from kanserve.auth.roles import Principal
from kanserve.errors import KanserveError
from kanserve.grpc_api import call_context
from kanserve.grpc_api.call_context import INTERNAL_ERROR, Call, CallFailed, Code
from kanserve.observability import logs

log = logs.get_logger("rpc")


class AccessLog:
    """Policy that selects the calls with an access log line.

        policy  all, errors, none, or sampled:N, which selects one of N successful calls

    Internal errors always have a line. Probes have one only if they fail.
    """

    def __init__(self, policy: str) -> None:
        kind, _, every = policy.partition(":")
        self.refused = kind != "none"  # whether refused calls have one
        self.every = {"all": 1, "sampled": int(every or 1)}.get(kind, 0)
        self._count = 0

    def wants(self, outcome: Code, *, probe: bool) -> bool:
        """Whether a call has a line; call this once per call."""
        if outcome is Code.INTERNAL:
            return True
        if outcome is not Code.OK:
            return self.refused and not (probe and outcome is Code.CANCELLED)
        if probe or not self.every:
            return False
        self._count += 1
        return self._count % self.every == 0

    def picked(self, count: int) -> Sequence[int]:
        """Positions of the calls with a line, among the next successful calls. Counts these calls."""
        if not self.every:
            return ()
        first = self.every - 1 - self._count % self.every
        self._count += count
        return range(first, count, self.every)


class Line(NamedTuple):
    """Line of a call that native code handled. `sizes`: bytes of the request and of the response. `trace_id`: of the
    caller's trace; "" without one."""

    request_id: str
    caller: Principal
    sizes: tuple[int, int]
    seconds: float
    trace_id: str

    def call(self, facts: dict[str, object], deadline: float | None = None) -> Call:
        """The context of the call."""
        call = Call(self.request_id, True, deadline)
        call.caller, call.facts = self.caller, {**facts, "trace_id": self.trace_id} if self.trace_id else facts
        return call


def write_successes(path: str, calls: Sequence[Line], facts: dict[str, object]) -> None:
    """Write the lines of successful calls with these facts."""
    shared, lines = json.dumps(facts)[1:-1], []
    for line in calls:
        (received, sent), ms = line.sizes, round(line.seconds * 1e3, 3)
        own = f'"method": "{path}", "code": "OK", "ms": {ms}, "request_bytes": {received}, "response_bytes": {sent}'
        trace = f', "trace_id": {logs.quote(line.trace_id)}' if line.trace_id else ""
        name = f', "caller": {logs.quote(line.caller.name)}' if line.caller.name else ""
        lines.append((line.request_id, f"{own}, {shared}{trace}{name}"))
    if logs.write_many("rpc", "request_completed", lines):
        return
    for line in calls:
        call = line.call(facts)
        with logs.within(call):
            log.info("request_completed", **_facts(path, call, Code.OK, line.seconds, line.sizes))


def _facts(path: str, call: Call, outcome: Code, seconds: float, sizes: tuple[int, int]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "method": path,
        "code": outcome.name,
        "ms": round(seconds * 1e3, 3),
        "request_bytes": sizes[0],
        "response_bytes": sizes[1],
        **call.facts,
    }
    if call.caller.name:
        facts["caller"] = call.caller.name
    return facts


def write(
    path: str, call: Call, outcome: Code, failure: Exception | None, *, seconds: float, sizes: tuple[int, int]
) -> None:
    """Write the line of a call to the method `path`: error for a bug of the server, warning for a rejected call, info
    otherwise."""
    facts = _facts(path, call, outcome, seconds, sizes)
    if isinstance(failure, CallFailed):  # by the transport, whose status for a malformed call is INTERNAL too
        facts["error_code"] = failure.code
        log.warning("request_completed", **facts, reason=failure.text)
    elif outcome is Code.INTERNAL:
        facts["error_code"] = INTERNAL_ERROR if failure is None else call_context.error_code(failure)
        log.error("request_completed", **facts, exc_info=failure)
    elif isinstance(failure, KanserveError):
        facts["error_code"] = failure.code
        log.warning("request_completed", **facts, reason=call_context.text(failure, call.request_id))
    elif outcome is Code.DEADLINE_EXCEEDED:
        facts["error_code"] = "deadline-exceeded"
        log.warning("request_completed", **facts, reason="the deadline of the client passed")
    else:
        log.info("request_completed", **facts)
