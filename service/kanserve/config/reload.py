"""Settings that change while the server runs: read again when it is asked to, taken over where that is possible.

What is broken changes nothing: the server goes on with the settings that it has. What takes a restart is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kanserve.config.settings import LIVE, Settings
from kanserve.errors import ConfigError
from kanserve.observability import logs

log = logs.get_logger("settings")


@dataclass(frozen=True, slots=True)
class Change:
    """What one reading came to. `live`: the settings that may change, all of them; `refused`: they could not be
    read, and are as before; `waiting`: that have another value now and take a restart."""

    live: Mapping[str, Any]
    refused: bool = False
    waiting: tuple[str, ...] = ()


class Changes:
    """Changes that somebody else finds, and passes on by `came`."""

    def __init__(self) -> None:
        self._takers: list[Callable[[Change], None]] = []

    def subscribe(self, taker: Callable[[Change], None]) -> None:
        """Have it called with every change."""
        self._takers.append(taker)

    def publish(self, change: Change) -> None:
        """Tell everyone."""
        for taker in self._takers:
            taker(change)

    def request(self) -> None:
        """To look for changes: whoever passes them on does."""


class Reload(Changes):
    """The settings as they were given, and as `read` finds them later. Use from one event loop."""

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        """`read` raises ConfigError; it is called in a thread."""
        super().__init__()
        self._given, self._read = settings, read
        self._live = live(settings)
        self._waiting: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def request(self) -> None:
        """Read again, soon; asked while that goes on, once more after it."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._again:
            self._again = False
            self.publish(await self._reread())

    async def _reread(self) -> Change:
        try:
            settings = await asyncio.to_thread(self._read)
        except ConfigError as error:
            reason = str(error)
        else:
            return self._apply(settings)
        log.error("settings_reload_failed", reason=reason)
        return Change(self._live, refused=True, waiting=self._waiting)

    def _apply(self, settings: Settings) -> Change:
        before, self._live = self._live, live(settings)
        changed = {name: value for name, value in self._live.items() if value != before[name]}
        self._waiting = tuple(name for name in differences(self._given, settings) if name not in LIVE)
        log.info("settings_reloaded", **{"changed": changed} if changed else {"changed": "nothing"})
        if self._waiting:
            log.warning("settings_pending_restart", settings=list(self._waiting))
        return Change(self._live, waiting=self._waiting)


def live(settings: Settings) -> dict[str, Any]:
    """Those that may change while the server runs."""
    return {name: getattr(settings, name) for name in LIVE}


def differences(first: Settings, other: Settings) -> list[str]:
    """The names of settings that have another value."""
    return [name for name in Settings.model_fields if getattr(first, name) != getattr(other, name)]
