"""Tables for people, on stdout."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table

PIPE_WIDTH = 200  # columns, where there is no terminal to ask


def make(title: str, columns: tuple[str, ...], *, numbers: tuple[str, ...] = (), caption: str = "") -> Table:
    """A table; the columns named in `numbers` are aligned to the right."""
    table = Table(
        title=printable(title),
        caption=printable(caption) or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table


def add(table: Table, *cells: str) -> None:
    """A row. Names from a model reach the terminal, but its control sequences do not."""
    table.add_row(*(printable(cell) for cell in cells))


def show(table: Table) -> None:
    """Print it. Brackets are brackets, not rich's markup."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, emoji=False, highlight=False)
    console.print(table)


def printable(text: str) -> str:
    """Other characters as Python writes them."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)
