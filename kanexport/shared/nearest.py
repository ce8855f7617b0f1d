"""Help with a misspelt name. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

WORD_LENGTH = 80  # characters of a word that are compared
SHOWN = 40  # names of a list; the rest is counted


def advice(word: str, known: Iterable[str], *, what: str = "known", prefix: str = "") -> str:
    """The sentence for `word`, which is not in `known`: "did you mean 'digits'?", or
    "known: digits, hello" where no name is close, or nothing where there is none.

    A `prefix` that all names have is shown and not compared: it would make all of them alike.
    """
    names = list(dict.fromkeys(known))
    bare = {name.removeprefix(prefix): name for name in names}
    close = closest(word.removeprefix(prefix), bare)
    if close:
        return f"did you mean {bare[close]!r}?"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{what}: {', '.join(names[:SHOWN])}{more}" if names else ""


def closest(word: str, known: Iterable[str]) -> str:
    """The name that is most like `word`, or "". Case, `-` and `_` make no difference."""
    names = {_plain(name): name for name in known}
    matches = difflib.get_close_matches(_plain(word[:WORD_LENGTH]), names, n=1)
    return names[matches[0]] if matches else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
