"""Tests of `transport/call_io.py`."""

import gzip

import pytest

from kanserve.transport import call_io


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 21])
def test_a_frame_in_parts_is_the_frame(size: int) -> None:
    message = bytes(range(size))
    *before, last = list(call_io.frame_parts(message, 10))
    assert b"".join(part for part, _ in (*before, last)) == call_io.frame(message)
    assert [end for _, end in (*before, last)] == [False] * len(before) + [True]


@pytest.mark.parametrize("size", [1, 3, 5, 6, 100, 5000, 10**6])
async def test_messages_do_not_depend_on_the_pieces_that_arrive(size: int) -> None:
    expected = [b"", b"small", bytes(range(256)) * 60, b"packed" * 2000, b"last" * 5000]
    packed = [False, False, False, True, False]
    payloads = [gzip.compress(message) if pack else message for message, pack in zip(expected, packed, strict=True)]
    body = b"".join(
        call_io.PREFIX.pack(pack, len(payload)) + payload for payload, pack in zip(payloads, packed, strict=True)
    )
    messages, found = call_io.Messages(10**6, b"gzip"), []
    for at in range(0, len(body), size):
        for message, compressed in messages.take(body[at : at + size]):
            found.append(await messages.unpacked(message) if compressed else message)
    assert found == expected
    assert messages.whole
