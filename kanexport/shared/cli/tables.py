"""Tables and progress for people, on stdout, at any width.

If the columns do not fit next to each other without breaking words, each row becomes a block of lines. Nothing is cut
off.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rich import box, table
from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from kanexport.shared.cli.console import printable

PIPE_WIDTH = 200  # columns without a terminal and without COLUMNS
LEAST_WIDTH = 20  # columns; a narrower terminal folds the lines
GAP = 2  # blanks between two columns
INDENT = 2  # of the lines of a block
Cell = str | Sequence[str]  # one line, or several


@dataclass(slots=True)
class Table:
    """Table of columns with a title and, below, a caption. The columns named in `numbers` are aligned to the right."""

    title: str
    columns: Sequence[str]
    numbers: Sequence[str] = ()
    caption: Sequence[str] = ()
    rows: list[tuple[str, ...]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def add(self, *cells: Cell, style: str = "") -> None:
        """Add a row with a cell for every column. Names from a model reach the terminal, but control sequences do
        not."""
        lines = ([cell] if isinstance(cell, str) else cell for cell in cells)
        self.rows.append(tuple("\n".join(map(printable, some)) for some in lines))
        self.styles.append(style)

    def show(self) -> None:
        """Print it to stdout."""
        out = _console()
        if self.title:
            out.print(Text(printable(self.title), style="italic"))
        if sum(self._widths(_longest_word)) + GAP * (len(self.columns) - 1) <= out.width:
            self._print_grid(out)
        else:
            self._print_blocks(out)
        for line in self.caption:
            out.print(Text(printable(line), style="dim"))

    def _widths(self, measure: Callable[[str], int]) -> list[int]:
        """The largest measure of the cells of each column."""
        return [
            max(measure(heading), *(measure(row[at]) for row in self.rows), 0)
            for at, heading in enumerate(self.columns)
        ]

    def _print_grid(self, out: Console) -> None:
        room = out.width - GAP * (len(self.columns) - 1)
        widths, most = self._widths(_longest_word), self._widths(_longest_line)
        while sum(widths) < room and widths != most:  # columns get the remaining room, one character each per round
            for at, most_here in enumerate(most):
                if widths[at] < most_here and sum(widths) < room:
                    widths[at] += 1
        grid = table.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for heading, width in zip(self.columns, widths, strict=True):
            side: JustifyMethod = "right" if heading in self.numbers else "left"
            grid.add_column(Text(heading), justify=side, overflow="fold", width=width)
        for row, style in zip(self.rows, self.styles, strict=True):
            grid.add_row(*(Text(cell) for cell in row), style=style)
        out.print(grid)

    def _print_blocks(self, out: Console) -> None:
        for row, style in zip(self.rows, self.styles, strict=True):
            out.print()
            out.print(Text(f"{self.columns[0]} {row[0]}", style=style or "bold", overflow="fold"))
            for heading, cell in zip(self.columns[1:], row[1:], strict=True):
                for at, line in enumerate(cell.split("\n") if cell else ()):
                    shown = f"{heading}: {line}" if at == 0 else line
                    indent = INDENT if at == 0 else 2 * INDENT
                    out.print(Padding(Text(shown, overflow="fold"), (0, 0, 0, indent), expand=False))
        out.print()


def _console() -> Console:
    """Brackets are brackets, not rich's markup."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    console = Console(width=None if known else PIPE_WIDTH, markup=False, emoji=False, highlight=False)
    console.width = max(console.width, LEAST_WIDTH)
    return console


def _longest_line(text: str) -> int:
    return max((cell_len(line) for line in text.split("\n")), default=0)


def _longest_word(text: str) -> int:
    return max((cell_len(word) for word in text.split()), default=0)


EVERY = 10.0  # seconds between two lines


class Report(Protocol):
    """Callback for progress. It receives how much is done, how much there is (0 if unknown), and the name of the next
    piece of work."""

    def __call__(self, done: int, total: int, place: str = "") -> None:
        """Show the progress. `place` is shown next to the bar, such as the next file."""


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
