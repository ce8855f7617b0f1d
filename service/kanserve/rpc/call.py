"""One call in progress: who asked, until when, and what its line in the log will tell."""

from __future__ import annotations

import itertools
import re
import secrets
import time
from collections.abc import Iterable
from typing import NamedTuple

from kanserve.access.roles import EVERYONE, Principal
from kanserve.observe import logs

ID = re.compile(r"[\x21-\x7e]{1,128}")
ID_HEADER = "x-request-id"
PREFIX = secrets.token_hex(4)  # of ids made here: other processes' differ

_made = itertools.count(1)


class Arrival(NamedTuple):
    """What a door knows of a call: its metadata, `guard.HEADERS` of it at least, the seconds until its deadline
    (None: it has none), and the certificate of who calls, verified, as PEM ("": none was shown)."""

    metadata: Iterable[tuple[str, str | bytes]]
    remaining: float | None
    certificate: str | bytes = ""


class Call:
    """`given`: the id came with the call; `deadline`: monotonic; `metadata`: of a stream; `caller`: who it is from.
    `facts` end up in the line; never put tensor contents there. A call without an id has one once it is asked for."""

    __slots__ = ("_request_id", "caller", "deadline", "facts", "given", "message_id", "metadata")

    def __init__(self, request_id: str, given: bool, deadline: float | None) -> None:
        self._request_id, self.given, self.deadline = request_id, given, deadline
        self.facts: dict[str, object] = {}
        self.metadata: tuple[tuple[str, str | bytes], ...] = ()
        self.message_id = ""
        self.caller: Principal = EVERYONE

    @property
    def request_id(self) -> str:
        """Printable, 128 characters at most."""
        if not self._request_id:
            self._request_id = f"{PREFIX}{next(_made):08x}"
        return self._request_id

    @property
    def who(self) -> str:
        """The name of the caller, "" without one."""
        return self.caller.name

    def adopt(self, message_id: str) -> None:
        """Use the id inside the message, unless the metadata named one."""
        self.message_id = message_id
        if not self.given and ID.fullmatch(message_id):
            self._request_id = message_id

    def late(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


def arrived(arrival: Arrival) -> Call:
    """A call that begins now; lines of the log that are written meanwhile tell its id."""
    request_id = ""
    for key, value in arrival.metadata:
        if key == ID_HEADER and isinstance(value, str) and ID.fullmatch(value):
            request_id = value
    deadline = None if arrival.remaining is None else time.monotonic() + arrival.remaining
    call = Call(request_id, bool(request_id), deadline)
    logs.CALL.set(call)
    return call
