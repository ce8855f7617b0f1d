"""Tests of `client/base.py`."""

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kanserve import Client
from kanserve.client.base import LONGEST_BACK_OFF, Attempts

AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@given(
    st.floats(0.001, 1e6), st.integers(0, 40), st.lists(st.sampled_from(list(grpc.StatusCode)), min_size=1, max_size=60)
)
def test_tries_are_bounded_and_of_what_is_unavailable(timeout: float, retries: int, codes: list[Any]) -> None:
    attempts, pauses = Attempts(timeout, retries), []
    for code in codes:
        pause = attempts.pause(code)
        if pause is None:
            break
        assert code in AGAIN
        pauses.append(pause)
    assert len(pauses) <= retries
    assert all(0.05 * 2**at <= pause or pause >= LONGEST_BACK_OFF / 2 for at, pause in enumerate(pauses))
    assert all(pause <= LONGEST_BACK_OFF and pause < timeout for pause in pauses)
    if timeout > 100 and len(pauses) < len(codes):
        assert len(pauses) == retries or codes[len(pauses)] not in AGAIN


def test_what_is_no_patience() -> None:
    for make, text in (
        (lambda: Client("a:1", timeout=0), "timeout is 0, expected seconds above 0"),
        (lambda: Client("a:1", retries=-1), "retries is -1, expected 0 or more"),
        (lambda: Client("a:1").within(float("nan")), "seconds is nan"),
    ):
        with pytest.raises(ValueError, match=text):
            make()


def test_a_token_that_is_not_sent() -> None:
    for url, more, says in (
        ("10.0.0.1:8001", {"token": "t" * 47}, "would send the token to 10.0.0.1:8001 without TLS"),
        ("grpc://example:8001", {"token": "t" * 47}, "without TLS"),
        ("localhost:8001", {"token": "two words"}, "characters that are not allowed in a token"),
        ("localhost:8001", {"token": "t\u00e9"}, "characters that are not allowed in a token"),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            Client(url, **more)
        assert more["token"] not in str(caught.value)


@pytest.mark.parametrize("url", ["127.0.0.1:1", "[::1]:1", "localhost:1", "grpc://127.0.0.2:1", "grpcs://example:1"])
def test_a_token_that_is(url: str) -> None:
    Client(url, token="t" * 47).close()
    Client("10.0.0.1:1", token="t" * 47, token_in_clear=True).close()
