"""Logs: one line of JSON, or one coloured line for people, on stderr.

They are written by a thread of their own (`sink`), so that whoever reads them can hold nothing up.
`CALL`, where it is set, is in every line.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol, TextIO, cast

import structlog
from structlog.typing import FilteringBoundLogger, Processor

from kanserve.observe import foreign, unblocked
from kanserve.observe.sink import Sink
from kanserve.observe.spans import TRACE

__all__ = ["CALL", "configure", "drain", "dropped", "get_logger", "release", "screened"]


class Named(Protocol):
    """What lines are written for."""

    @property
    def request_id(self) -> str:
        """Of the call."""
        ...

    @property
    def who(self) -> str:
        """The name of the caller, "" without one."""
        ...

    @property
    def facts(self) -> dict[str, object]:
        """What its line tells beside; never what is in a tensor."""
        ...


CALL: ContextVar[Named | None] = ContextVar("call", default=None)
CLOSED = -1  # a descriptor that takes nothing
LONGEST = 8192  # characters of one fact in a line
LAST_WORDS = 1.0  # seconds for lines that wait at the end
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def as_json(format: str) -> bool:
    """Whether lines are JSON; auto asks the terminal."""
    return format == "json" or (format == "auto" and not _terminal())


def _terminal() -> bool:
    for diversion in _diversions:
        return os.isatty(diversion.original)
    return sys.stderr is not None and sys.stderr.isatty()


_sinks: list[Sink] = []  # the process' one, once it is configured
_screens: list[Callable[[str], bool]] = []
_diversions: list[unblocked.Diversion] = []  # one while there are screens
_steps: list[Processor] = []  # that a line passes; loggers keep this list, and so it is what settings change


def dropped() -> int:
    """Lines that this process could not write so far."""
    return sum(sink.dropped for sink in _sinks)


def drain() -> None:
    """Have the lines written that wait, or as many as a moment allows."""
    for sink in _sinks:
        sink.drain(LAST_WORDS)


def _keep_free() -> None:
    """A standard descriptor that is closed would be the next connection's, and get what is meant for it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free


def _raw(line: str) -> None:
    """Write a line that a library wrote by itself, unless a screen takes it."""
    if any(screen(line) for screen in tuple(_screens)):
        return
    for sink in _sinks:
        sink.write(line)


@contextlib.contextmanager
def screened(takes: Callable[[str], bool]) -> Iterator[None]:
    """Give `takes` each line that a library writes to descriptor 2. The log leaves out a line for which it returns
    true, and writes every other line unchanged. A thread calls `takes`. Before `configure`, this does nothing."""
    if not _sinks:
        yield
        return
    _screens.append(takes)
    if not _diversions:
        for sink in _sinks:
            sink.separate(unblocked.STDERR)
        _diversions.append(unblocked.Diversion(_raw))
    try:
        yield
    finally:
        if _screens == [takes]:
            _restore()
        _screens.remove(takes)


def _restore() -> None:
    """Let libraries write to descriptor 2 directly again."""
    while _diversions:
        _diversions.pop().end()


def release() -> None:
    """From here on stderr is written to directly again, after all lines; for the end of a command."""
    foreign.release()
    _restore()
    drain()


def configure(format: str = "auto", level: str = "info") -> None:
    """Set up logging of this process, or change it. `format`: auto, json or console; auto asks the terminal."""
    if not _sinks:
        _keep_free()
        _sinks.append(Sink(CLOSED if sys.stderr is None else unblocked.unblock(_raw, sys.stderr.fileno())))
        atexit.register(drain)
    shared: list[Processor] = [
        _name_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = (
        [structlog.processors.format_exc_info, _bound, structlog.processors.JSONRenderer()]
        if as_json(format)
        # Plain tracebacks: rich ones print local variables, and tensor contents never go into logs.
        else [structlog.dev.ConsoleRenderer(colors=_terminal(), exception_formatter=structlog.dev.plain_traceback)]
    )
    _steps[:] = [_from(LEVELS[level]), *shared, *final]
    structlog.configure(
        processors=_steps,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _sinks[0])),
        cache_logger_on_first_use=True,
    )
    steps = [*shared, *final]
    foreign.adopt(get_logger("python"), cast(TextIO, _sinks[0]), steps, LEVELS[level], terminal=_terminal())


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `component: name`. Cheap; call it once per module."""
    return cast(FilteringBoundLogger, structlog.get_logger(component=name))


def _from(least: int) -> Processor:
    """Drops lines that are less severe. A logger of structlog's that did so itself could not change its mind."""

    def keep(_: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if LEVELS.get(method, logging.CRITICAL) < least:
            raise structlog.DropEvent
        return event

    return keep


def _bound(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Cut each fact to LONGEST characters. The begin and the end of a very long traceback are enough."""
    for name, fact in event.items():
        if isinstance(fact, str) and len(fact) > LONGEST:
            left = len(fact) - LONGEST
            event[name] = f"{fact[: LONGEST // 2]}\n... {left} characters are left out ...\n{fact[-LONGEST // 2 :]}"
    return event


def _name_request(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    call = CALL.get()
    if call is not None:
        event.setdefault("request_id", call.request_id)
        if call.who:
            event.setdefault("caller", call.who)
    trace = TRACE.get()
    if trace is not None:
        event.setdefault("trace_id", trace.id)
    return event
