"""Transports for a server without garbage collection; on SIGUSR1 it counts the objects that only a collection frees."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections import Counter

from kanserve.config.settings import Settings
from kanserve.grpc_api.services import Services
from kanserve.observability import logs
from kanserve.transport import factory
from kanserve.transport.endpoints import Tls

BUILD = factory.build  # the test's server replaces this function


class Counting:
    """The transport of the settings, as the product builds it."""

    def __init__(self, settings: Settings, services: Services, pages: factory.Pages) -> None:
        _count()
        self._transports = BUILD(settings, services, pages)

    async def start(self) -> int:
        return (await self._transports.start()).grpc

    async def renew(self, found: Tls) -> None:
        await self._transports.renew(found)

    async def part(self, grace: float) -> None:
        await self._transports.part(grace)

    async def stop(self, grace: float | None) -> None:
        await self._transports.stop(grace)


def _count() -> None:
    gc.disable()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell)


def _tell() -> None:
    """A line of the log: objects in cycles, bytes of messages that they hold, the most frequent types, and how many
    objects are alive."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    types = Counter(type(item).__qualname__ for item in gc.garbage)
    held = {id(item): len(item) for item in gc.get_referents(*gc.garbage) if isinstance(item, bytes | bytearray)}
    gc.garbage.clear()
    gc.collect()
    alive = len(gc.get_objects())
    logs.get_logger("test").info(
        "counted", cycles=types.total(), held=sum(held.values()), types=types.most_common(8), alive=alive
    )
