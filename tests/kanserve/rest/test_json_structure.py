"""Tests of `rest/json_structure.py`."""

import json

import pytest

from kanserve.rest import json_document, json_structure
from tests.support.documents import MANY, read, texts
from tests.support.documents import slices as slices


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
