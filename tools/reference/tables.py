"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table. Line breaks in a cell become spaces, and bars are escaped."""
    lines = [row(head), row(["---"] * len(head)), *map(row, rows)]
    return "\n".join(lines) + "\n"


def row(cells: Sequence[object]) -> str:
    """One line of a table."""
    return f"| {' | '.join(' '.join(str(cell).split()).replace('|', chr(92) + '|') for cell in cells)} |"
