"""Misspelled fields of documents, with which a test checks that a check notices them."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]


def fields(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of each key of a document."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        if isinstance(value, dict):
            yield (*path, key)
        yield from fields(child, (*path, key))


def misspelled(document: Any, path: Path, rng: random.Random) -> Any:
    """A copy in which one key has two letters swapped, or one letter less."""
    name = str(path[-1])
    at = rng.randrange(len(name) - 1) if len(name) > 1 else 0
    wrong = name[:at] + name[at + 1 : at + 2] + name[at] + name[at + 2 :]
    return renamed(document, path, name[:at] + name[at + 1 :] if wrong == name else wrong)


def renamed(document: Any, path: Path, name: str) -> Any:
    """A copy in which the key at a path has another name, at the same position."""
    changed = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    items = [(name if key == path[-1] else key, value) for key, value in place.items()]
    place.clear()
    place.update(items)
    return changed
