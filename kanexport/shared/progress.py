"""Progress bars on stderr, for both programs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kanexport.shared.voice import printable


class Report(Protocol):
    """Called as the work goes on: how much is done, how much there is, and what is next."""

    def __call__(self, done: int, total: int, place: str = "") -> None:
        """`place` is shown beside the bar, such as the file that is next."""


@contextlib.contextmanager
def bar(what: str, *, unit: str = "", at_once: bool = True) -> Iterator[Report]:
    """A bar that is gone afterwards. Without a terminal nothing is shown.

    With `at_once` false it appears only when a first report leaves something to do.
    """
    if not sys.stderr.isatty():
        yield lambda done, total, place="": None
        return
    console = Console(stderr=True, markup=False, emoji=False)
    columns = (TextColumn(what), BarColumn(), TextColumn("{task.fields[count]}", markup=False))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as display:
        task = display.add_task(what, total=None, count="", visible=at_once)

        def report(done: int, total: int, place: str = "") -> None:
            count = " ".join(word for word in (f"{done}/{total}", unit, printable(place)) if word)
            display.update(task, completed=done, total=total, count=count, visible=at_once or done < total)

        yield report
