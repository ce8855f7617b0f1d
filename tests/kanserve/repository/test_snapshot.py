"""Tests of `repository/snapshot.py`."""

from __future__ import annotations

from kanserve.repository import snapshot


def test_looking_takes_a_small_part_of_the_time() -> None:
    assert snapshot.pause(2.0, 0.001) == 2.0
    assert snapshot.pause(2.0, 1.5) == 15.0
    assert snapshot.pause(0.0, 1.0) is None
