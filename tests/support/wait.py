"""Waits for an event. This module is the only one of the tests that sleeps."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS = 120.0  # until an event that must come; a busy machine is no failure
PAUSE = 0.02


def until(
    condition: Callable[[], T], what: str = "", *, seconds: float = SECONDS, errors: tuple[type[Exception], ...] = ()
) -> T:
    """The first true value of `condition`; its `errors` count as false. Raises AssertionError with `what`, or with the
    source of the condition."""
    end = time.monotonic() + seconds
    while True:
        try:
            value: Any = condition()
        except errors as error:
            value = error
        else:
            if value:
                return value  # type: ignore[no-any-return]  # the condition's
        if time.monotonic() >= end:
            raise AssertionError(_message(condition, what, seconds, value))
        time.sleep(PAUSE)


async def until_async(condition: Callable[[], T], what: str = "", *, seconds: float = SECONDS) -> T:
    """`until`, while the event loop turns."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() >= end:
            raise AssertionError(_message(condition, what, seconds, value))
        await asyncio.sleep(PAUSE)
    return value


async def turns(count: int = 20) -> None:
    """Let the event loop run all callbacks that are ready, without a wait for a time."""
    for _ in range(count):
        await asyncio.sleep(0)


def _message(condition: Callable[[], object], what: str, seconds: float, value: object) -> str:
    try:
        what = what or inspect.getsource(condition).strip()
    except (OSError, TypeError):  # a built-in, a partial
        what = repr(condition)
    return f"not reached in {seconds:g} s: {what}; the last value is {value!r}"
