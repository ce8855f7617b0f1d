"""JSON documents of random values, and a reader with few bytes in a slice, for tests."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from kanserve.errors import BadRequest
from kanserve.rest import json_document, json_structure

MANY = 10**7


WORDS = (1, 2.5, -3, "a,[b", '\\"]', "{:", "", True, None, "\\\\", "é", "\u0000", "\\")


KEYS = ("a", 'b"', "c:", "d\\", "")


@pytest.fixture(params=[7, 64])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of a slice, so few that a small document has many chunks."""
    monkeypatch.setattr(json_structure, "SLICE", request.param)
    monkeypatch.setattr(json_document, "SMALL", 0)
    return int(request.param)


def value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.random()
    if depth > 5 or kind < 0.3:
        return chance.choice(WORDS)
    if kind < 0.65:
        return [value(chance, depth + 1) for _ in range(chance.randint(0, 6))]
    return {chance.choice(KEYS) + str(at): value(chance, depth + 1) for at in range(chance.randint(0, 5))}


def texts(seed: int, count: int = 120) -> Iterator[tuple[random.Random, bytes]]:
    chance = random.Random(seed)
    for _ in range(count):
        text = json.dumps(value(chance), ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, None, 1]))
        yield chance, text.encode()


def read(text: bytes) -> tuple[bool, Any]:
    try:
        return True, json_document.read(text, MANY)
    except BadRequest:
        return False, None
