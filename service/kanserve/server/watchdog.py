"""Watchdog thread, which checks that the event loop responds and that no execution hangs.

An execution that hangs cannot be interrupted, and a blocked event loop handles no request. So both end the process: a
blocked loop immediately, a hung execution after the calls that the server can still complete. The process manager
starts another process. The thread counts time in its ticks. So a process that was paused as a whole, for example by a
debugger, does not count as hung.
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

EXIT_STUCK = 70  # sysexits.h: an error in the software
TICK = 1.0  # seconds between two checks, at most
SPARE = 10.0  # seconds in addition to the limit of a graceful shutdown
FRAMES = 6  # of a stack that are logged

log = logs.get_logger("watchdog")


@dataclass(frozen=True, slots=True)
class Patience:
    """Time limits in seconds; 0: no limit.

    loop     without a heartbeat of the event loop
    run      of one execution
    leaving  of a graceful shutdown
    """

    loop: float
    run: float
    leaving: float

    @property
    def tick(self) -> float:
        """Seconds between two checks."""
        return min([TICK, *(limit / 4 for limit in (self.loop, self.run) if limit)])


class Watchdog:
    """Watchdog of one event loop. It calls `stuck` on the loop if an execution hangs, and `stuck` should end the
    process."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, patience: Patience, metrics: Metrics, stuck: Callable[[], None]
    ) -> None:
        self._loop, self._patience, self._stuck = loop, patience, stuck
        self._silence = metrics.number("kanserve_event_loop_lag_seconds").labels()
        self._longest = metrics.number("kanserve_oldest_execution_age_seconds").labels()
        self._main = threading.get_ident()
        self._heard, self._ended = threading.Event(), threading.Event()
        self._heard.set()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop the checks."""
        self._ended.set()

    def _watch(self) -> None:
        """Check until `close`, or until the process ends."""
        silent, left, tick = 0.0, float("inf"), self._patience.tick
        runs: dict[int, float] = {}  # for how many seconds each was seen
        while not self._ended.wait(tick):
            silent = 0.0 if self._heard.is_set() else silent + tick
            self._silence.set(silent)
            if 0 < self._patience.loop <= silent:
                frames = traceback.format_stack(sys._current_frames().get(self._main))[-FRAMES:]
                log.error("event_loop_stalled", seconds=round(silent, 1), at="".join(frames))
                end()
            if self._heard.is_set():  # request the next heartbeat
                self._heard.clear()
                try:
                    self._loop.call_soon_threadsafe(self._heard.set)
                except RuntimeError:  # the loop is closed
                    return
            left -= tick
            if left < 0:
                log.error("shutdown_timed_out")
                end()
            running = resources.running()
            runs = {number: runs.get(number, 0.0) + tick for number in running}
            longest = max(runs.values(), default=0.0)
            self._longest.set(longest)
            if 0 < self._patience.run <= longest and left == float("inf"):
                left = self._patience.leaving + SPARE
                names = sorted(name for number, name in running.items() if runs[number] >= self._patience.run)
                log.error("run_stalled", seconds=self._patience.run, runs=names)  # they contain the names of models
                self._loop.call_soon_threadsafe(self._stuck)


def end(code: int = EXIT_STUCK) -> NoReturn:
    """End the process immediately, after the log lines are written."""
    logs.drain()
    os._exit(code)


async def last(serving: Awaitable[int]) -> NoReturn:
    """Serve, and then end the process with the exit code of the server. Everything is closed by then. The interpreter's
    own exit (join threads, free models and modules) took 8 s on a busy machine."""
    code = await serving
    with contextlib.suppress(OSError, ValueError):  # it has no reader, or it is closed
        sys.stdout.flush()
    end(code)
