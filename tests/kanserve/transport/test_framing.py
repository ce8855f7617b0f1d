"""Tests of `transport/framing.py`."""

import pytest

from kanserve.transport import framing


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 21])
def test_a_frame_in_parts_is_the_frame(size: int) -> None:
    message = bytes(range(size))
    *before, last = list(framing.parts(message, 10))
    assert b"".join(part for part, _ in (*before, last)) == framing.frame(message)
    assert [end for _, end in (*before, last)] == [False] * len(before) + [True]
