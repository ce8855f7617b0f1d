"""JSON parsed in chunks gives the same values as in one call, and the server checks its limits before it parses."""

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from kanserve.errors import BadRequest, ResourceExhausted
from kanserve.rest import json_document
from tests.support.documents import MANY, read, texts
from tests.support.documents import slices as slices
from tests.support.wait import until_async


def strict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def test_what_is_not_json_in_one_is_not_in_pieces(slices: int) -> None:
    refused = 0
    for chance, text in texts(2):
        at, letters = chance.randrange(len(text)), bytes([chance.choice(b'[]{},:"\\1 ')])
        broken = text[:at] + letters * chance.randint(0, 1) + text[at + 1 :]
        try:
            expected = True, json.loads(broken, object_pairs_hook=strict)
        except ValueError:
            expected, refused = (False, None), refused + 1
        assert read(broken) == expected, broken
    assert refused > 25


def test_numbers_that_json_lacks_in_pieces(slices: int) -> None:
    text = b'{"a": [' + b"NaN, 1, -Infinity, [Infinity], " * 20 + b"2]}"
    assert json_document.read(text, MANY) == {"a": ["NaN", 1, "-Infinity", ["Infinity"]] * 20 + [2]}


def test_counts_are_bounded_and_strings_count_as_one() -> None:
    assert len(json_document.read(b'["' + b"," * 5000 + b'"]', 1)) == 1
    with pytest.raises(ResourceExhausted, match="values in JSON, expected at most 4"):
        json_document.read(b"[" + b"0," * 5 + b"0]", 4)
    with pytest.raises(BadRequest, match="lists, objects and colons, expected at most"):
        json_document.read(b"[" + b"[]," * (json_document.PARTS + 1) + b"0]", MANY)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":' * 900 + b"[" + b"{}," * 120_000 + b"0]" + b"}" * 900,
        b"[" * 30 + b"{}," * 120_000 + b"0" + b"]" * 30,
        b'{"a": "' + b"\\\\" * 10**6 + b'"}',
        b'{"a": "' + b'\\":' * (2 * 10**5) + b'"}',
        b"[" + b'"",' * 10**6 + b"0]",
        b"]" * 10**6,
    ],
    ids=["attack", "objects", "escapes", "quotes", "strings", "closed"],
)
def test_time_grows_with_bytes_alone(text: bytes) -> None:
    begun = time.thread_time()
    read(text)
    assert time.thread_time() - begun < 2  # some 0.1 s; before, 356 KB took 4.6 s


async def test_large_documents_are_read_one_at_a_time_and_away_from_the_loop() -> None:
    begun, go = [], threading.Event()

    def work() -> str:
        begun.append(threading.current_thread().name)
        go.wait(600)
        return begun[-1]

    reading = [asyncio.ensure_future(json_document.reading(json_document.LARGE, work)) for _ in range(8)]
    await until_async(lambda: begun)
    await asyncio.to_thread(int)  # a thread for another one could have begun by now
    assert len(begun) == 1
    go.set()
    assert threading.current_thread().name not in await asyncio.gather(*reading)
    assert await json_document.reading(json_document.LARGE - 1, work) == threading.current_thread().name
