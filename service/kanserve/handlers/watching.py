"""Statistics of a version again and again, for those who watch it: so many watches at once, so often, so long."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from kanserve.errors import BadRequest, TooManyWatches
from kanserve.handlers import statistics
from kanserve.handlers.kan import Kan
from kanserve.handlers.statistics import Found
from kanserve.models.live import Counted, Live
from kanserve.nouns import ModelInfo

LEAST, USUAL, LONGEST = 1.0, 2.0, 3600.0  # seconds between two updates
MOST = 10_000  # updates of one watch
FRESH = LEAST / 2  # seconds for which all watches share the same counts
SHARE = 4  # one caller may have this part of all watches


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Which version, "" for the one that answers, and over which rows, as of `statistics`; seconds between two updates
    (0: as usual), and how many of them (0: as many as there may be)."""

    model: str
    version: str
    id: str = ""
    over: str = ""
    interval: float = 0.0
    updates: int = 0
    caller: str = ""


@dataclass(slots=True)
class _Counted:
    """The last counts for `users` watches of the same statistics, and the time when they were made."""

    users: int = 0
    task: asyncio.Task[Counted] | None = None
    at: float = 0.0

    async def latest(self, live: Live, over: str) -> Counted:
        """The latest counts. All watches share one count within FRESH seconds. Raises BadRequest."""
        now = time.monotonic()
        if self.task is None or (self.task.done() and now - self.at > FRESH):
            self.task, self.at = asyncio.ensure_future(statistics.counted(live, over)), now
            self.task.add_done_callback(_seen)
        return await asyncio.shield(self.task)


class Watches:
    """The watches of one server: at most `most` at once, and a quarter of these for one caller with a known name. All
    watches of the same statistics share their counts. `closing`: set when the server rejects all requests."""

    def __init__(self, kan: Kan, closing: asyncio.Event, most: int) -> None:
        self._kan, self._closing, self.most = kan, closing, most
        self._open: dict[asyncio.Event, str] = {}  # with the name of the caller
        self._counted: dict[tuple[Live, str], _Counted] = {}
        kan.registry.tell(self._wake)

    def _wake(self) -> None:
        for event in self._open:
            event.set()

    async def watch(self, request: WatchRequest) -> AsyncGenerator[tuple[Found, str]]:
        """Statistics now and after each interval; with the last of them why there are no more. Raises BadRequest,
        TooManyWatches, and what `statistics` does."""
        interval, most = _in_reason(request)
        self._bound(request.caller)
        model, _ = statistics.described(self._kan, request.model, request.version)
        info, live = model.info, statistics.live(model)
        del model  # nobody here keeps it from being freed
        woken = asyncio.Event()
        self._open[woken] = request.caller
        shared = self._counted.setdefault((live, request.over), _Counted())
        shared.users += 1
        try:
            for sent in range(1, most + 1):
                counted = await shared.latest(live, request.over)
                ended = self._ended(info, live, request.version)
                if not ended and sent == most:
                    ended = f"{most} updates were sent"
                yield statistics.found(info, request.id, request.over, counted), ended
                if ended:
                    return
                await self._pause(woken, interval, info, live, request.version)
        finally:
            del self._open[woken]
            shared.users -= 1
            if not shared.users:
                self._counted.pop((live, request.over), None)

    def forget(self) -> None:
        """Forget the last counts: counting starts again."""
        for shared in self._counted.values():
            shared.task = None

    def _bound(self, caller: str) -> None:
        """Raises TooManyWatches."""
        if len(self._open) >= self.most:
            raise TooManyWatches(
                f"{self.most} watches of statistics are open, which is as many as there may be (max_watches)"
            )
        own, most = list(self._open.values()).count(caller), max(1, self.most // SHARE)
        if caller and own >= most:
            raise TooManyWatches(
                f"{caller} has {own} watches of statistics open, which is as many as one caller may have (a quarter of "
                "max_watches)"
            )

    async def _pause(self, woken: asyncio.Event, seconds: float, info: ModelInfo, live: Live, asked: str) -> None:
        """So long, or until there is a reason to end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._ended(info, live, asked):
            woken.clear()
            waiting = [asyncio.ensure_future(event.wait()) for event in (woken, self._closing)]
            try:
                await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waiting:
                    one.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await one

    def _ended(self, info: ModelInfo, live: Live, asked: str) -> str:
        """Why there is nothing more to tell, or ""."""
        if self._closing.is_set():
            return "the server is on its way out"
        registry = self._kan.registry
        model, default = registry.model(info.name, info.version), registry.default(info.name)
        now = "none answers now" if default is None else f"version {default} answers now"
        if model is None:
            return f"version {info.version} serves no more, {now}"
        if model.live is not live:
            return f"version {info.version} was replaced by another of that number"
        return "" if asked or default == info.version else now


def _seen(task: asyncio.Task[Counted]) -> None:
    """Read the error of a task that no watch waits for any more, because asyncio would log an unread error."""
    if not task.cancelled():
        task.exception()


def _in_reason(request: WatchRequest) -> tuple[float, int]:
    """Raises BadRequest."""
    interval = request.interval or USUAL
    if not (math.isfinite(interval) and LEAST <= interval <= LONGEST):
        raise BadRequest(
            f"{interval:g} seconds between two updates were asked for, {LEAST:g} to {LONGEST:g} were expected"
        )
    if request.updates > MOST:
        raise BadRequest(f"{request.updates} updates were asked for, one watch has {MOST} at most")
    return interval, request.updates or MOST
