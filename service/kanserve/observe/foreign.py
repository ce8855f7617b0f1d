"""Lines that come past our loggers, in the form of theirs: what libraries log, what Python warns of, exceptions that
nobody took, whatever is printed to stderr. All of it goes to the same queue, so that nobody who writes waits.

What compiled code prints by itself goes to the descriptor as it is: mostly last words before a process dies, which
nobody would be there to pass on. gRPC core and onnxruntime, which would talk, are told to be quiet. h2corn has no such
setting, so `logs.screened` looks at the lines on descriptor 2 while h2corn serves.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TextIO

import structlog
from structlog.typing import FilteringBoundLogger, Processor

# What numpy would say of rows with NaN, infinities and all that a caller may send.
NUMBERS = "(invalid value|overflow|divide by zero) encountered"
LONGEST = 8192  # characters of a line without an end
_kept: list[TextIO] = []  # what stderr was


def adopt(
    logger: FilteringBoundLogger, stream: TextIO, steps: Sequence[Processor], level: int, *, terminal: bool
) -> None:
    """Give them the form of `steps`, into `stream`; again, where the form changes. On a terminal, stderr stays."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_component, *steps[:-1]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, steps[-1]],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.INFO))  # libraries' debug lines are not ours to print
    warnings.showwarning = _warned(logger)
    warnings.filterwarnings("ignore", NUMBERS, RuntimeWarning)
    sys.excepthook = _untaken(logger)
    threading.excepthook = lambda args: _tell(logger, args.exc_value, thread=getattr(args.thread, "name", ""))
    sys.unraisablehook = lambda args: _tell(logger, args.exc_value, reason=args.err_msg or "")
    if sys.stderr is not None and not _kept and not terminal:
        _kept.append(sys.stderr)
        sys.stderr = Lines(logger, sys.stderr.fileno())


def release() -> None:
    """stderr as it was: what a command says at its end is for whoever started it."""
    if _kept:
        sys.stderr.flush()
        sys.stderr = _kept.pop()


class Lines(io.TextIOBase):
    """In the place of stderr: each line becomes one of the log."""

    def __init__(self, logger: FilteringBoundLogger, descriptor: int) -> None:
        self._logger, self._descriptor = logger, descriptor
        self._lock, self._begun = threading.RLock(), ""

    def write(self, text: str) -> int:
        """Whole lines are passed on, what is left waits for its end."""
        with self._lock:
            *whole, self._begun = (self._begun + text).split("\n")
            if len(self._begun) > LONGEST:
                whole, self._begun = [*whole, self._begun], ""
            for line in filter(str.strip, whole):
                self._logger.warning("stderr", text=line)
        return len(text)

    def flush(self) -> None:
        """Passes on what is begun."""
        with self._lock:
            begun, self._begun = self._begun, ""
        if begun:
            self._logger.warning("stderr", text=begun)

    def fileno(self) -> int:
        """Of stderr, for those who write there themselves."""
        return self._descriptor


def _name_component(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    record = event.get("_record")
    if isinstance(record, logging.LogRecord):
        event["component"] = record.name
    return event


def _warned(logger: FilteringBoundLogger) -> Any:
    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        logger.warning("Python warns", kind=category.__name__, text=str(message), where=f"{filename}:{lineno}")

    return show


def _untaken(logger: FilteringBoundLogger) -> Any:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, Exception):
            _tell(logger, error)
        else:
            sys.__excepthook__(kind, error, trace)

    return hook


def _tell(logger: FilteringBoundLogger, error: BaseException | None, **facts: str) -> None:
    log = logger.bind(**{name: fact for name, fact in facts.items() if fact})
    log.error("an exception that nobody took", exc_info=error)
