"""Each transport in a server whose garbage collector is off, and which counts on SIGUSR1 what only it would free."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections import Counter
from typing import Any

from kanserve.config import Settings
from kanserve.doors.door import Door
from kanserve.doors.transports import Pages
from kanserve.observe import logs
from kanserve.rpc.services import Services


def asgi(settings: Settings, services: Services, pages: Pages) -> Door:
    """As the product builds it, for gRPC and HTTP."""
    from kanserve.doors.h2corn import H2corn

    _count()
    return H2corn(settings, services, pages(), 0, 1000, None)


def grpcio(settings: Settings, services: Services, pages: Pages) -> Door:
    """As the product builds it."""
    from kanserve.doors.grpcio import Grpcio

    _count()
    return Grpcio(settings, services, 1000, None)


def _count() -> None:
    gc.disable()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, _tell)


def _tell() -> None:
    """A line of the log: objects in cycles that nothing else refers to, all that are alive, and the cycles' types."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = Counter(type(one).__qualname__ for one in gc.garbage)
    found.update(
        f"{o.f_code.co_filename[-20:]}:{o.f_lineno}:{o.f_code.co_name}"
        for o in gc.garbage
        if type(o).__name__ == "frame"
    )
    found.update(repr(o)[:50] for o in gc.garbage if isinstance(o, BaseException))
    told: dict[str, Any] = {"cycles": found.total(), "types": found.most_common(40)}
    gc.garbage.clear()
    gc.collect()
    told["alive"] = len(gc.get_objects())
    logs.get_logger("test").info("counted", **told)
