"""Progress on stderr, for both programs: a bar on a terminal, otherwise a line every EVERY seconds."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kanexport.shared.voice import printable

EVERY = 10.0  # seconds between two lines


class Report(Protocol):
    """A callback for progress. It receives how much is done, how much there is (0 if unknown), and the name of the
    next piece of work."""

    def __call__(self, done: int, total: int, place: str = "") -> None:
        """`place` is shown beside the bar, such as the file that is next."""


@contextlib.contextmanager
def bar(what: str, *, unit: str = "", at_once: bool = True) -> Iterator[Report]:
    """A bar that disappears afterwards. Without a terminal, a line every EVERY seconds, and none for shorter work.

    With `at_once` false the bar appears only when a first report leaves something to do.
    """
    if not sys.stderr.isatty():
        yield _lines(what, unit)
        return
    console = Console(stderr=True, markup=False, emoji=False)
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.fields[count]}", markup=False))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as display:
        task = display.add_task(what, total=None, count="", visible=at_once)

        def report(done: int, total: int, place: str = "") -> None:
            count = _count(done, total, unit, place)
            display.update(task, completed=done, total=total or None, count=count, visible=at_once or done != total)

        yield report


def _lines(what: str, unit: str) -> Report:
    """Prints a line to stderr for the first report of each interval, and none after the last piece of work."""
    due = time.monotonic() + EVERY

    def report(done: int, total: int, place: str = "") -> None:
        nonlocal due
        if time.monotonic() >= due and done != total:
            due = time.monotonic() + EVERY
            print(f"{what}: {_count(done, total, unit, place)}", file=sys.stderr, flush=True)

    return report


def phases(what: str, report: Report) -> Callable[[str], None]:
    """A callback that receives a text on each step that begins. It shows the text next to the bar of `report` on a
    terminal, otherwise as a line on stderr, at once."""

    def begins(words: str) -> None:
        if sys.stderr.isatty():
            report(0, 0, words)
        else:
            print(f"{what}: {printable(words)}", file=sys.stderr, flush=True)

    return begins


def _count(done: int, total: int, unit: str, place: str) -> str:
    """Such as "3/10 rows, part.csv"."""
    count = f"{done}/{total}" if total else f"{done}"
    return ", ".join(filter(None, (f"{count} {unit}".strip(), printable(place))))
