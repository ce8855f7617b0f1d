"""Shared work for several clients: it runs once, and ends with the last client or at its time limit."""

import asyncio
import threading
from typing import Any

import pytest

from kanserve.errors import BadRequest, QueueFull, ServerDeadlineExceeded
from kanserve.rest.exchange import HttpResponse
from kanserve.rest.ui import Once
from tests.support.wait import turns


class Version:
    """The version that a result is about."""


class Work:
    """Waits until the test releases it, and counts its runs."""

    def __init__(self, body: bytes = b"x") -> None:
        self.begun = self.ended = 0
        self.gone: list[threading.Event] = []
        self.go = asyncio.Event()
        self._body = body

    async def make(self, gone: threading.Event) -> HttpResponse:
        self.begun += 1
        self.gone.append(gone)
        try:
            await self.go.wait()
        finally:
            self.ended += 1
        return HttpResponse(self._body)


def asked(once: Once, key: str, of: object, work: Work) -> asyncio.Task[HttpResponse]:
    return asyncio.ensure_future(once.get(key, of, work.make))


async def test_all_who_ask_wait_for_one_and_it_is_kept() -> None:
    once, work, version = Once(), Work(), Version()
    waiting = [asked(once, "a", version, work) for _ in range(5)]
    await turns()
    waiting[0].cancel()  # the first client may leave
    await turns()
    assert (work.begun, work.ended) == (1, 0)
    work.go.set()
    responses = await asyncio.gather(*waiting[1:])
    assert {id(item) for item in responses} == {id(await once.get("a", version, work.make))}
    assert work.begun == 1
    await once.get("a", Version(), work.make)  # another version replaces it
    assert work.begun == 2


async def test_what_everybody_left_ends_and_holds_nobody_up() -> None:
    once, left, work = Once(together=1), Work(), Work()
    version, other = Version(), Version()
    gone = [asked(once, "a", version, left) for _ in range(3)]
    behind = asked(once, "b", other, work)
    await turns()
    assert (left.begun, work.begun) == (1, 0)
    for item in gone:
        item.cancel()
    again = asked(once, "a", version, work)  # at the same moment
    await turns()
    assert left.ended == 1
    assert left.gone[0].is_set(), "a thread has to know"
    work.go.set()
    await asyncio.gather(behind, again)
    assert work.begun == 2


async def test_what_takes_too_long_or_is_too_much_is_refused() -> None:
    once, slow, version = Once(seconds=600.0, together=1, waiting=2), Work(), Version()
    waiting = [asked(once, key, version, slow) for key in "ab"]
    await turns()
    with pytest.raises(QueueFull):
        await once.get("c", version, slow.make)
    for item in waiting:
        item.cancel()
    once = Once(seconds=1 / 20, together=1, waiting=2)
    waiting = [asked(once, key, version, slow) for key in "ab"]
    for item in waiting:
        with pytest.raises(ServerDeadlineExceeded, match=r"longer than 0\.05 s"):
            await item
    assert all(item.is_set() for item in slow.gone)
    slow.go.set()
    assert (await once.get("a", version, slow.make)).body == b"x"


async def test_an_error_is_for_all_who_wait_and_is_not_kept() -> None:
    async def fail(gone: threading.Event) -> HttpResponse:
        await asyncio.sleep(0)
        raise BadRequest("never")

    once, work, version = Once(), Work(), Version()
    result: list[Any] = await asyncio.gather(*(once.get("a", version, fail) for _ in range(3)), return_exceptions=True)
    assert [str(item) for item in result] == ["never"] * 3
    work.go.set()
    assert (await once.get("a", version, work.make)).body == b"x"


async def test_what_is_kept_is_bounded_in_bytes() -> None:
    once, versions = Once(kept=250), [Version() for _ in range(4)]
    works = [Work(b"x" * 100) for _ in versions]
    for at, (version, work) in enumerate(zip(versions, works, strict=True)):
        work.go.set()
        await once.get(at, version, work.make)
    assert once._size == sum(len(response) for _, response in once._kept.values()) == 200
    for at in (3, 2, 0):
        await once.get(at, versions[at], works[at].make)
    assert [work.begun for work in works] == [2, 1, 1, 1]
    large = Work(b"x" * 300)
    large.go.set()
    assert len(await once.get("large", versions[0], large.make)) == 300
    assert once._size <= 250
