"""Logs on stderr, as lines of JSON or as colored lines for a terminal.

A thread writes them (`Sink`), so that a slow reader of stderr does not block the server.
Own code: `Sink` has 70 lines. `logging.handlers.QueueHandler` takes 36 us per line with its record, not 2. Its queue
counts lines instead of bytes, and its listener waits without end at exit if nobody reads the log.

If `CALL` is set, each line names that call.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import io
import json
import logging
import os
import select
import socket
import stat
import struct
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from kanserve.observability import log_events
from kanserve.observability.statistics import TRACE

__all__ = ["CALL", "configure", "drain", "dropped", "get_logger", "release", "screened", "within", "write_many"]


class Named(Protocol):
    """Interface of a call that log lines name."""

    @property
    def request_id(self) -> str:
        """The id of the call."""
        ...

    @property
    def caller_name(self) -> str:
        """The name of the caller, "" without one."""
        ...

    @property
    def facts(self) -> dict[str, object]:
        """Fields of the call's access log line; never tensor contents."""
        ...


CALL: ContextVar[Named | None] = ContextVar("call", default=None)


@contextlib.contextmanager
def within(call: Named) -> Iterator[None]:
    """Name this call in log lines."""
    before = CALL.set(call)
    try:
        yield
    finally:
        CALL.reset(before)


quote = json.encoder.encode_basestring_ascii  # a string as JSON
CLOSED = -1  # a descriptor that takes nothing
LONGEST = 8192  # characters of one fact in a line
LAST_WORDS = 1.0  # seconds for lines that wait at the end
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def as_json(format: str) -> bool:
    """Whether lines are JSON; auto means console lines on a terminal."""
    return format == "json" or (format == "auto" and not _terminal())


def _terminal() -> bool:
    for diversion in _diversions:
        return os.isatty(diversion.original)
    return sys.stderr is not None and sys.stderr.isatty()


_sinks: list[Sink] = []  # the process' one, once it is configured
_screens: list[Callable[[str], bool]] = []
_diversions: list[Diversion] = []  # one while there are screens
_plain: list[bool] = [False]  # whether lines of level info are written, as JSON
_steps: list[Processor] = []  # that a line passes; loggers keep this list, and so it is what settings change


def dropped() -> int:
    """Number of lines that this process could not write."""
    return sum(sink.dropped for sink in _sinks)


def drain() -> None:
    """Write the waiting lines, for LAST_WORDS seconds at most."""
    for sink in _sinks:
        sink.drain(LAST_WORDS)


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
            sink.separate(STDERR)
        _diversions.append(Diversion(_raw))
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
    """Write all lines, and restore direct writes to stderr, for the end of a command."""
    if _kept:  # so that the last message of a command reaches its user
        sys.stderr.flush()
        sys.stderr = _kept.pop()
    _restore()
    drain()


def configure(format: str = "auto", level: str = "info") -> None:
    """Set up logging of this process, or change it. `format`: auto, json or console; auto: console on a terminal."""
    if not _sinks:
        for descriptor in range(3):  # otherwise the next connection would get the number of a closed one, and log lines
            try:
                os.fstat(descriptor)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # the lowest that is free
        _sinks.append(Sink(CLOSED if sys.stderr is None else unblock(_raw, sys.stderr.fileno())))
        atexit.register(drain)
    shared: list[Processor] = [
        _describe,
        _name_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final: list[Processor] = (
        [structlog.processors.format_exc_info, _bound, structlog.processors.JSONRenderer()]
        if as_json(format)
        # Plain tracebacks: rich ones print local variables, and tensor contents never go into logs.
        else [
            _lead,
            structlog.dev.ConsoleRenderer(
                colors=_terminal(), exception_formatter=structlog.dev.plain_traceback, event_key="message"
            ),
        ]
    )
    _steps[:] = [_from(LEVELS[level]), *shared, *final]
    _plain[0] = as_json(format) and LEVELS[level] <= logging.INFO
    structlog.configure(
        processors=_steps,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, _sinks[0])),
        cache_logger_on_first_use=True,
    )
    steps = [*shared, *final]
    adopt(get_logger("python"), cast(TextIO, _sinks[0]), steps, LEVELS[level], terminal=_terminal())


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `component: name`. Cheap; call it once per module."""
    return cast(FilteringBoundLogger, structlog.get_logger(component=name))


def write_many(component: str, event: str, lines: Sequence[tuple[str, str]]) -> bool:
    """Write an info line for each of these calls, given by its request id and the JSON members of its facts. It
    takes 10% of the time of the processors, and all lines have the same time. False if lines are not JSON: nothing
    is written."""
    if not _plain[0]:
        return False
    begin, message = f'{{"component": "{component}", ', json.dumps(log_events.EVENTS[event].message)
    middle = f', "event": "{event}", "message": {message}, "request_id": '
    stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    end = f', "level": "info", "timestamp": "{stamp}"}}\n'
    _sinks[0].write_lines([f"{begin}{facts}{middle}{quote(call)}{end}" for call, facts in lines])
    return True


def _from(least: int) -> Processor:
    """Drop less severe lines. A structlog logger that filters by itself could not change its level."""

    def keep(_: Any, method: str, event: EventDict) -> EventDict:
        if LEVELS.get(method, logging.CRITICAL) < least:
            raise structlog.DropEvent
        return event

    return keep


def _bound(_: Any, __: str, event: EventDict) -> EventDict:
    """Cut each fact to LONGEST characters. The begin and the end of a very long traceback are enough."""
    for name, fact in event.items():
        if isinstance(fact, str) and len(fact) > LONGEST:
            left = len(fact) - LONGEST
            event[name] = f"{fact[: LONGEST // 2]}\n... {left} characters are left out ...\n{fact[-LONGEST // 2 :]}"
    return event


def _describe(_: Any, __: str, event: EventDict) -> EventDict:
    """Add the message of the event; a library's line gets an id, and its text is the message."""
    if "_record" in event:
        event["message"], event["event"] = event["event"], log_events.LIBRARY
    elif (known := log_events.EVENTS.get(event["event"])) is not None:
        event["message"] = known.message
    return event


def _lead(_: Any, __: str, event: EventDict) -> EventDict:
    """Put the event in the place of a message that is missing, because the console shows the message first."""
    if "message" not in event:
        event["message"] = event.pop("event")
    return event


def _name_request(_: Any, __: str, event: EventDict) -> EventDict:
    call = CALL.get()
    if call is not None:
        event.setdefault("request_id", call.request_id)
        if call.caller_name:
            event.setdefault("caller", call.caller_name)
    trace = TRACE.get()
    if trace is not None:
        event.setdefault("trace_id", trace.id)
    return event


MOST_BYTES = 2**20  # that wait
MOST_LINE = 2**16  # characters; for libraries that write by themselves, since `logs` bounds the facts of its lines
CUT = "... the line is cut\n"


class Sink:
    """Asynchronous writer to a descriptor, which never blocks and never fails."""

    def __init__(self, descriptor: int, most_bytes: int = MOST_BYTES) -> None:
        self._descriptor, self._most = descriptor, most_bytes
        self._lines: deque[bytes] = deque()
        self._waiting = 0  # bytes, those being written included
        self._changed = threading.Condition()
        self.dropped = 0  # lines
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def write(self, text: str) -> int:
        """Take a line, or drop it if more than `most_bytes` wait."""
        self.write_lines([text if len(text) <= MOST_LINE else text[:MOST_LINE] + CUT])
        return len(text)

    def write_lines(self, lines: Sequence[str]) -> None:
        """Take lines, and drop those that are too many."""
        with self._changed:
            for line in lines:
                data = line.encode("utf-8", "backslashreplace")
                if self._waiting + len(data) > self._most:
                    self.dropped += 1
                else:
                    self._waiting += len(data)
                    self._lines.append(data)
            self._changed.notify_all()

    def separate(self, descriptor: int) -> None:
        """If the sink writes to this descriptor, write to a duplicate from now on, so that it can be replaced."""
        if self._descriptor == descriptor:
            self._descriptor = os.dup(descriptor)

    def flush(self) -> None:
        """Do nothing: lines are written as soon as possible."""

    def drain(self, seconds: float) -> None:
        """Wait until all lines are written, for `seconds` at most."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._waiting and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _write(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._changed.wait()
                count = len(self._lines)
                data = b"".join(self._lines)
                self._lines.clear()
            lost = 0
            try:
                self._put(memoryview(data))
            except OSError:
                lost = count
            with self._changed:
                self._waiting -= len(data)
                self.dropped += lost
                self._changed.notify_all()

    def _put(self, data: memoryview) -> None:
        """Write data. Only this thread may wait for a reader. Raises OSError."""
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                reader = select.poll()
                reader.register(self._descriptor, select.POLLOUT)
                reader.poll()


# Warnings of numpy about NaN, infinities and other values that a client may send.
NUMBERS = "(invalid value|overflow|divide by zero) encountered"
_kept: list[TextIO] = []  # what stderr was


def adopt(
    logger: FilteringBoundLogger, stream: TextIO, steps: Sequence[Processor], level: int, *, terminal: bool
) -> None:
    """Give lines of libraries the form of `steps`, into `stream`; call it again if the form changes. stderr of a
    terminal stays."""
    handler = logging.StreamHandler(stream)
    final = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, steps[-1]]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[_name_component, *steps[:-1]], processors=final)
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.INFO))  # no debug lines of libraries

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        logger.warning("python_warning", kind=category.__name__, text=str(message), where=f"{filename}:{lineno}")

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, Exception):
            _tell(logger, error)
        else:
            sys.__excepthook__(kind, error, trace)

    warnings.showwarning = show
    warnings.filterwarnings("ignore", NUMBERS, RuntimeWarning)
    sys.excepthook = hook
    threading.excepthook = lambda args: _tell(logger, args.exc_value, thread=getattr(args.thread, "name", ""))
    sys.unraisablehook = lambda args: _tell(logger, args.exc_value, reason=args.err_msg or "")
    if sys.stderr is not None and not _kept and not terminal:
        _kept.append(sys.stderr)
        sys.stderr = Lines(logger, sys.stderr.fileno())


class Lines(io.TextIOBase):
    """Replacement of stderr that turns each line into a log line."""

    def __init__(self, logger: FilteringBoundLogger, descriptor: int) -> None:
        self._logger, self._descriptor = logger, descriptor
        self._lock, self._begun = threading.RLock(), ""

    def write(self, text: str) -> int:
        """Pass on whole lines, and keep the rest until its end."""
        with self._lock:
            *whole, self._begun = (self._begun + text).split("\n")
            if len(self._begun) > LONGEST:
                whole, self._begun = [*whole, self._begun], ""
            for line in filter(str.strip, whole):
                self._logger.warning("stderr_output", text=line)
        return len(text)

    def flush(self) -> None:
        """Pass on an incomplete line."""
        with self._lock:
            begun, self._begun = self._begun, ""
        if begun:
            self._logger.warning("stderr_output", text=begun)

    def fileno(self) -> int:
        """The descriptor of stderr, for code that writes to it directly."""
        return self._descriptor


def _name_component(_: Any, __: str, event: EventDict) -> EventDict:
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["component"] = record.name
    return event


def _tell(log: FilteringBoundLogger, error: BaseException | None, **facts: str) -> None:
    log.error("unhandled_exception", exc_info=error, **{name: fact for name, fact in facts.items() if fact})


STDERR = 2
PATIENCE = struct.pack("ll", 0, 10_000)  # time limit of a socket: seconds and microseconds
CHUNK = 2**16  # bytes
LAST = 1.0  # seconds that the end of a diversion waits for lines in the pipe


def unblock(take: Callable[[str], object], descriptor: int = STDERR) -> int:
    """Make the descriptor non-blocking; call this once. If kanserve needs a pipe, `take` gets the lines that libraries
    write to it. Returns the descriptor that the log writes to."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind):
        with socket.socket(fileno=os.dup(descriptor)) as known:
            known.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, PATIENCE)
        return descriptor
    if not (stat.S_ISFIFO(kind) or stat.S_ISCHR(kind)):
        return descriptor
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return Diversion(take, descriptor).original
    os.dup2(own, descriptor)
    os.close(own)
    return descriptor


class Diversion:
    """Pipe that replaces a descriptor until `end`. A thread passes each line to `take`. `original` is a duplicate of
    the previous descriptor. If the process crashes, lines in the pipe are lost, so faulthandler reports the crash to
    `original`."""

    def __init__(self, take: Callable[[str], object], descriptor: int = STDERR) -> None:
        self.original, self._descriptor = os.dup(descriptor), descriptor
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        os.dup2(writer, descriptor)
        os.close(writer)
        self._reports = not faulthandler.is_enabled()
        if self._reports:
            faulthandler.enable(self.original)
        self._thread = threading.Thread(target=_pass_on, args=(reader, take), name="stderr", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Restore the descriptor, and wait a moment until `take` has the lines in the pipe. Call this once."""
        os.dup2(self.original, self._descriptor)
        self._thread.join(LAST)
        if self._reports:
            faulthandler.disable()
        os.close(self.original)


def _pass_on(reader: int, take: Callable[[str], object]) -> None:
    """Pass each line of a pipe to `take`."""
    begun = b""
    while data := os.read(reader, CHUNK):
        *whole, begun = (begun + data).split(b"\n")
        if len(begun) > CHUNK:
            whole, begun = [*whole, begun], b""
        for line in whole:
            take(line.decode(errors="backslashreplace") + "\n")
    if begun:
        take(begun.decode(errors="backslashreplace") + "\n")
    os.close(reader)
