"""Where the process is between its start and its end; one object, set by `server/app.py`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from kanserve.errors import Draining

# The ways in which calls end while the server is draining; `cancelled` are calls that their client cancelled.
ENDS = ("answered", "refused", "cut_off", "cancelled")


@dataclass(slots=True)
class Lifecycle:
    """`waiting`: not ready yet, for others that start beside. `draining`: not ready any more, still answering.
    `closed`: new requests are turned away, which those who wait for `closing` are told. `held`: whatever ends waits
    for `released`, as long as the port closes, so that nobody asks again in that very moment: gRPC core cancels such
    calls (grpc/grpc#41785). `cutting`: calls that are in flight are cut off. `stuck`: something in here will never
    end; the process has to. `ends`: the number of calls per kind of end, while it was draining."""

    waiting: bool = False
    draining: bool = False
    closed: bool = False
    held: bool = False
    cutting: bool = False
    stuck: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    ends: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ENDS, 0))

    def ended(self, error: BaseException | None) -> None:
        """Count a call that ends while the server is draining, by the error that its method raised."""
        end = "answered"
        if isinstance(error, Draining):
            end = "refused"
        elif error is not None and not isinstance(error, Exception):
            end = "cut_off" if self.cutting else "cancelled"
        self.ends[end] += 1

    @property
    def accepting(self) -> bool:
        """Whether it may say that it is ready."""
        return not (self.waiting or self.draining)

    def close(self) -> None:
        """From now on `closed`."""
        self.closed = True
        self.closing.set()

    async def wait_released(self) -> None:
        """Where something is `held`: until it no longer is. The end of a call is near, and is not cancelled here."""
        with contextlib.suppress(asyncio.CancelledError):
            await self.released.wait()

    @contextlib.asynccontextmanager
    async def hold(self, seconds: float) -> AsyncIterator[None]:
        """`held` for a moment, so long before and after what is done here, while the server goes on."""
        self.held = True
        try:
            await asyncio.sleep(seconds)
            yield
            await asyncio.sleep(seconds)
        finally:
            self.release()
            self.released = asyncio.Event()

    def release(self) -> None:
        """The port is closed."""
        self.held = False
        self.released.set()
