"""Generated sections of documentation pages: the text between two marks, which each run replaces."""

from __future__ import annotations

import re
from pathlib import Path


def put(page: Path, key: str, writer: str, text: str) -> None:
    """Into its place in the page, or at the end."""
    begin, end = marks(key, writer)
    content, block = page.read_text(), begin + text + end
    place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page.write_text(place.sub(lambda _: block, content) if place.search(content) else f"{content}\n{block}")


def read(page: Path, key: str, writer: str) -> str:
    """The text between the marks. Raises LookupError."""
    begin, end = marks(key, writer)
    _, opened, rest = page.read_text().partition(begin)
    text, closed, _ = rest.partition(end)
    if not opened or not closed:
        raise LookupError(f"{page.name} has no part {key!r} written by {writer}")
    return text


def marks(key: str, writer: str) -> tuple[str, str]:
    """Where a part begins and ends."""
    return f"<!-- {key}: written by {writer} -->\n", f"<!-- end of {key} -->\n"
