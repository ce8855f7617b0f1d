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
        title=title,
        caption=caption or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    return table


def show(table: Table) -> None:
    """Print it."""
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)
