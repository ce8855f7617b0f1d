"""What a door is: it turns connections into calls of the guarded methods, and knows no method."""

from __future__ import annotations

from typing import Protocol

from kanserve.doors.tls import Tls


class Door(Protocol):
    """One transport. Needs a running event loop; `start` once, then `stop` once."""

    async def start(self) -> int:
        """Bind and answer. Returns the port. Raises ConfigError if the address is taken or wrong."""
        ...

    async def renew(self, found: Tls) -> None:
        """Show these certificates in every handshake from now on. Raises ConfigError; then those before stay."""
        ...

    async def stop(self, grace: float | None) -> None:
        """Take no more calls, wait `grace` seconds for those in flight, then cut them off (None: at once).
        May be called again with None meanwhile."""
        ...
