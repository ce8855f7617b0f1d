"""Lifecycle state of the server process; one object, which `server/app.py` changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from kanserve.errors import Draining

# The ways in which calls end while the server is draining; `cancelled` are calls that their client cancelled.
ENDS = ("completed", "rejected", "aborted", "cancelled")


@dataclass(slots=True)
class Lifecycle:
    """Lifecycle state of a server process.

    waiting   True while the process waits for others that start with it; it is not ready
    draining  True while it still responds but is no longer ready
    closed    True if it rejects new requests
    held      True while the ends of calls wait for `released`, because the port closes (see `hold`)
    cutting   True while it ends calls in flight
    stuck     True if a task hangs, so that the process has to exit
    closing   event that `closed` becomes true
    released  event that the port is closed
    ends      number of calls by kind of end, while draining

    Without `held`, a client could send its next request in the moment in which the port closes. gRPC core cancels
    such calls (grpc/grpc#41785).
    """

    waiting: bool = False
    draining: bool = False
    closed: bool = False
    held: bool = False
    cutting: bool = False
    stuck: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))
    _holds: int = 0  # contexts of `hold` that are open

    def ended(self, error: BaseException | None) -> None:
        """Count a call that ends while the server is draining, by the error that its method raised."""
        end = "completed"
        if isinstance(error, Draining):
            end = "rejected"
        elif error is not None and not isinstance(error, Exception):
            end = "aborted" if self.cutting else "cancelled"
        self.ends[end] += 1

    @property
    def accepting(self) -> bool:
        """True if the process may report ready."""
        return not (self.waiting or self.draining)

    def close(self) -> None:
        """Set `closed` and its event."""
        self.closed = True
        self.closing.set()

    async def wait_released(self) -> None:
        """Wait until nothing is `held`. The end of a call is near, so this method ignores a cancellation."""
        with contextlib.suppress(asyncio.CancelledError):
            await self.released.wait()

    @contextlib.asynccontextmanager
    async def hold(self, seconds: float) -> AsyncIterator[None]:
        """Set `held` for `seconds` before and after the body, while the server goes on. Several may overlap. If the
        server shuts down meanwhile, it has the last word."""
        self.held = True
        self._holds += 1
        try:
            await asyncio.sleep(seconds)
            yield
            await asyncio.sleep(seconds)
        finally:
            self._holds -= 1
            if not (self._holds or self.closed):
                self.release()
                self.released = asyncio.Event()

    def release(self) -> None:
        """Record that the port is closed."""
        self.held = False
        self.released.set()
