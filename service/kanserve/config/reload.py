"""Hot reload of settings: read again on request, and applied where that is possible.

A faulty source changes nothing: the server keeps its settings. The log names settings that need a restart.
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
    """Result of one reload."""

    live: Mapping[str, Any]  # all reloadable settings with their values
    refused: bool = False  # True if the settings could not be read; the values are unchanged
    waiting: tuple[str, ...] = ()  # names of changed settings that need a restart


class Changes:
    """Publisher of changes that another process finds and passes on with `publish`."""

    def __init__(self) -> None:
        self._takers: list[Callable[[Change], None]] = []

    def subscribe(self, taker: Callable[[Change], None]) -> None:
        """Call `taker` with every change from now on."""
        self._takers.append(taker)

    def publish(self, change: Change) -> None:
        """Pass a change to all subscribers."""
        for taker in self._takers:
            taker(change)

    def request(self) -> None:
        """Do nothing. `Reload` overrides this method to read the settings again."""


class Reload(Changes):
    """Publisher of changes that `read` finds, compared with the settings of the start. Use it from one event loop."""

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        """`read` raises ConfigError; it is called in a thread."""
        super().__init__()
        self._given, self._read = settings, read
        self._live = live(settings)
        self._waiting: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def request(self) -> None:
        """Read the settings again soon. A request during a reload starts one more reload after it."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._again:
            self._again, fault = False, None
            try:
                settings = await asyncio.to_thread(self._read)
            except ConfigError as error:
                fault = error
            if fault is None:
                before, self._live = self._live, live(settings)
                changed = {name: value for name, value in self._live.items() if value != before[name]}
                self._waiting = tuple(name for name in differences(self._given, settings) if name not in LIVE)
                log.info("settings_reloaded", changed=changed or "nothing")
                if self._waiting:
                    log.warning("settings_pending_restart", settings=list(self._waiting))
                self.publish(Change(self._live, waiting=self._waiting))
            else:
                log.error("settings_reload_failed", reason=str(fault), code=fault.code, hint=fault.hint)
                self.publish(Change(self._live, refused=True, waiting=self._waiting))


def live(settings: Settings) -> dict[str, Any]:
    """Reloadable settings by name."""
    return {name: getattr(settings, name) for name in LIVE}


def differences(first: Settings, other: Settings) -> list[str]:
    """The names of settings that have another value."""
    return [name for name in Settings.model_fields if getattr(first, name) != getattr(other, name)]
