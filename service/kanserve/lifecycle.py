"""Where the process is between its start and its end; one object, set by `app.py`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class Lifecycle:
    """`draining`: not ready any more, still answering. `closed`: new requests are turned away, which those
    who wait for `closing` are told."""

    draining: bool = False
    closed: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        """From now on `closed`."""
        self.closed = True
        self.closing.set()
