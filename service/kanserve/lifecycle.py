"""Where the process is between its start and its end; one object, set by `app.py`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field


@dataclass(slots=True)
class Lifecycle:
    """`waiting`: not ready yet, for others that start beside. `draining`: not ready any more, still answering.
    `closed`: new requests are turned away, which those who wait for `closing` are told."""

    waiting: bool = False
    draining: bool = False
    closed: bool = False
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def willing(self) -> bool:
        """Whether it may say that it is ready."""
        return not (self.waiting or self.draining)

    def close(self) -> None:
        """From now on `closed`."""
        self.closed = True
        self.closing.set()
