"""Tests of `rest/json_structure.py`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from kanserve.errors import BadRequest
from kanserve.rest import json_document, json_structure

pytestmark = pytest.mark.slow


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


def test_pieces_are_the_whole(slices: int) -> None:
    most = 0
    for _, text in texts(1):
        assert json_document.read(text, MANY) == json.loads(text)
        most = max(most, len(list(json_structure.pieces(text, json_structure.scan(text, parts=MANY, values=MANY)))))
    assert most > 10


@pytest.mark.parametrize(("depth", "good"), [(31, True), (32, True), (33, False), (900, False)])
@pytest.mark.parametrize("large", [False, True])
def test_depth_is_bounded(depth: int, good: bool, large: bool) -> None:
    inner = b"[" + b"1," * (100_000 if large else 0) + b'1, "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["]'
    text = b'{"a":' * (depth - 1) + inner + b"}" * (depth - 1)
    assert read(text)[0] == good
