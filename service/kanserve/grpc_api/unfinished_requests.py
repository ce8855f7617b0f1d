"""Account of the bytes of requests that have not arrived completely, with a limit.

Every byte of such a request counts for its connection, for its caller, in total, and in the interceptor's
`max_inflight_bytes`. If the total exceeds its limit, the server finds the heaviest caller and its heaviest connection.
It rejects the newest unfinished request there. So a caller that fills the limit loses its own requests, and one caller
may use all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from operator import attrgetter
from typing import TypeVar

from kanserve.errors import RequestBufferLimited

T = TypeVar("T")
SMALL = 2**12  # bytes; a smaller piece is joined with others
SHARE, MOST = 0.375, 0.75  # of `max_inflight_bytes`: the rest stays for complete requests


class Buffer:
    """Buffer of bytes that arrive in pieces. It keeps the pieces, because one growing buffer leaves holes in the
    allocator's memory. It joins small pieces, because each would take more memory than it holds."""

    __slots__ = ("_pieces", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes | bytearray] = []
        self.size = 0

    def add(self, data: bytes) -> None:
        """Append a piece."""
        if not data:
            return
        self.size += len(data)
        last = self._pieces[-1] if self._pieces else b""
        if len(data) >= SMALL:
            self._pieces.append(data)
        elif isinstance(last, bytearray) and len(last) < SMALL:
            last += data
        else:
            self._pieces.append(bytearray(data))

    def take(self, skip: int = 0) -> bytes:
        """Return all bytes except the first `skip`, and empty the buffer."""
        first, *others = self._pieces or [b""]
        if skip <= len(first):
            data = b"".join((memoryview(first)[skip:], *others) if skip else self._pieces)
        else:
            data = b"".join(self._pieces)[skip:]
        self._pieces.clear()
        self.size = 0
        return data


class Unfinished:
    """Account of the unfinished requests of a server.

    hold                receives each change of the total, in bytes
    max_inflight_bytes  the interceptor's limit, of which the account may use a share
    largest             bytes of the largest request, for which there is room even if the limit is small
    """

    def __init__(self, hold: Callable[[int], None], max_inflight_bytes: int, largest: int = 0) -> None:
        self._hold, self._largest = hold, largest
        self.limit(max_inflight_bytes)
        self.total = 0
        self._callers: dict[str, _Caller] = {}

    def limit(self, max_inflight_bytes: int) -> None:
        """Use this limit of the interceptor from now on."""
        self.most = min(max(int(SHARE * max_inflight_bytes), self._largest), int(MOST * max_inflight_bytes))

    def grown(self, part: IncomingRequest, size: int) -> None:
        """`part` has `size` bytes more (or less, if negative). Rejects requests until the total fits the limit. Raises
        RequestBufferLimited if `part` itself is rejected."""
        caller = self._callers.setdefault(part.caller, _Caller())
        connection = caller.connections.setdefault(part.connection, _Connection())
        connection.parts[part] = None
        for count in (self, caller, connection):
            count.total += size
        part.size += size
        self._hold(size)
        while size > 0 and self.total > self.most:
            heaviest = max(self._callers.values(), key=attrgetter("total"))
            candidates = reversed(max(heaviest.connections.values(), key=attrgetter("total")).parts)
            # `part` itself, if no other request waits for bytes.
            newest = next((other for other in candidates if other.waits or other is part), part)
            self.gone(newest)
            newest.refuse()
            if newest is part:
                raise RequestBufferLimited(self.most)

    def gone(self, part: IncomingRequest) -> None:
        """End the account of `part`."""
        caller = self._callers.get(part.caller)
        connection = caller.connections.get(part.connection) if caller else None
        if caller is None or connection is None or part not in connection.parts:
            return
        del connection.parts[part]
        for count in (self, caller, connection):
            count.total -= part.size
        self._hold(-part.size)
        part.size = 0
        if not connection.parts:
            del caller.connections[part.connection]
        if not caller.connections:
            del self._callers[part.caller]


class _Connection:
    """Unfinished requests of one connection, the oldest first."""

    __slots__ = ("parts", "total")

    def __init__(self) -> None:
        self.total, self.parts = 0, dict[IncomingRequest, None]()


class _Caller:
    """Connections of one caller that have unfinished requests."""

    __slots__ = ("connections", "total")

    def __init__(self) -> None:
        self.total, self.connections = 0, dict[Hashable, _Connection]()


class IncomingRequest:
    """Request while it arrives. It is a context, and its exit ends the count. `caller`: the name of the principal, or
    the address of the peer."""

    __slots__ = ("_account", "_refused", "_task", "caller", "connection", "size")

    def __init__(self, account: Unfinished, connection: Hashable, caller: str) -> None:
        self._account, self.connection, self.caller = account, connection, caller
        self.size, self._refused = 0, False
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> IncomingRequest:
        return self

    def __exit__(self, *raised: object) -> None:
        self._account.gone(self)

    @property
    def most(self) -> int:
        """Bytes that all unfinished requests may have together."""
        return self._account.most

    @property
    def waits(self) -> bool:
        """Whether the request waits for more bytes, so that it can be rejected."""
        return self._task is not None

    def holds(self, size: int) -> None:
        """`size` bytes have arrived and are not passed on yet. Raises RequestBufferLimited."""
        if size == 0:
            self._account.gone(self)
        elif size != self.size:
            self._account.grown(self, size - self.size)

    async def more(self, coming: Awaitable[T]) -> T:
        """The next bytes. Raises RequestBufferLimited if the request is rejected meanwhile."""
        task = self._task = asyncio.current_task()
        try:
            return await coming
        except asyncio.CancelledError:
            if self._refused and task is not None and task.uncancel() == 0:
                raise RequestBufferLimited(self._account.most) from None
            raise
        finally:
            self._task = None
            del task  # a task that was cancelled holds this frame

    def refuse(self) -> None:
        """Reject this request; the account calls this to make room for others."""
        self._refused = True
        if self._task is not None:
            self._task.cancel()
