"""Whether the process still does what it is there for: a thread that asks the event loop for a sign of life, and sees
for how long runs have been running.

A run that never ends cannot be taken back, and a loop that stands still answers nobody, so both end the process: a
stuck loop at once, a stuck run after those calls that can still be answered. Whoever started the process starts
another. Time is counted in this thread's own ticks, so a process that was stopped as a whole, as by a debugger or in a
container that is paused, is not stuck when it goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn

from kanserve.observability import logs
from kanserve.observability.metrics import Metrics
from kanserve.system import resources

EXIT_STUCK = 70  # sysexits.h: an error inside of the software
TICK = 1.0  # seconds between two looks, at most
SPARE = 10.0  # seconds more than leaving may take
FRAMES = 6  # of a stack that are told

log = logs.get_logger("watchdog")


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. `loop`: without a sign of life; `run`: of one run; 0: for ever. `leaving`: that an orderly end takes."""

    loop: float
    run: float
    leaving: float

    @property
    def tick(self) -> float:
        """Between two looks."""
        return min([TICK, *(limit / 4 for limit in (self.loop, self.run) if limit)])


class Watchdog:
    """`stuck` is called on the loop when a run is, and should have the process leave."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, patience: Patience, metrics: Metrics, stuck: Callable[[], None]
    ) -> None:
        self._loop, self._patience, self._stuck = loop, patience, stuck
        self._silence = metrics.number("kanserve_event_loop_lag_seconds").labels()
        self._longest = metrics.number("kanserve_longest_run_seconds").labels()
        self._main = threading.get_ident()
        self._heard, self._ended = threading.Event(), threading.Event()
        self._heard.set()
        self._runs: dict[int, float] = {}  # for how many seconds each was seen
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Watch no more."""
        self._ended.set()

    def _watch(self) -> None:
        """Until `close`, or the end."""
        silent, left, tick = 0.0, float("inf"), self._patience.tick
        while not self._ended.wait(tick):
            silent = 0.0 if self._heard.is_set() else silent + tick
            self._silence.set(silent)
            if 0 < self._patience.loop <= silent:
                frames = traceback.format_stack(sys._current_frames().get(self._main))[-FRAMES:]
                log.error("event_loop_stalled", seconds=round(silent, 1), at="".join(frames))
                end()
            if not self._ask():
                return
            left -= tick
            if left < 0:
                log.error("shutdown_timed_out")
                end()
            if 0 < self._patience.run <= self._look(tick) and left == float("inf"):
                left = self._patience.leaving + SPARE
                log.error("run_stalled", seconds=self._patience.run, runs=self._names())
                self._loop.call_soon_threadsafe(self._stuck)

    def _ask(self) -> bool:
        """For a sign of life. False where there is no loop any more."""
        if not self._heard.is_set():
            return True
        self._heard.clear()
        try:
            self._loop.call_soon_threadsafe(self._heard.set)
        except RuntimeError:
            return False
        return True

    def _look(self, tick: float) -> float:
        """Seconds of the run that runs for longest."""
        self._runs = {number: self._runs.get(number, 0.0) + tick for number in resources.running()}
        longest = max(self._runs.values(), default=0.0)
        self._longest.set(longest)
        return longest

    def _names(self) -> list[str]:
        """Threads with a run that is stuck; they are named after models."""
        stuck = {number for number, seen in self._runs.items() if seen >= self._patience.run}
        return sorted(name for number, name in resources.running().items() if number in stuck)


def end(code: int = EXIT_STUCK) -> NoReturn:
    """At once: nothing is waited for but lines of the log."""
    logs.drain()
    os._exit(code)


async def last(serving: Awaitable[int]) -> NoReturn:
    """Serve, and then end the process with the exit code of the server. Everything is closed by then. The interpreter's
    own exit (join threads, free models and modules) took 8 s on a busy machine."""
    code = await serving
    with contextlib.suppress(OSError, ValueError):  # it has no reader, or it is closed
        sys.stdout.flush()
    end(code)
