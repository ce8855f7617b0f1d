"""Tests of `client/errors.py`."""

import asyncio
import contextlib
import dataclasses
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kanexport.shared.naming import Names
from kanserve import AsyncClient, Client, ClientError, DeadlineExceeded, InvalidInput, NotFound, NotSupported, TooLarge
from kanserve.client import chunking
from tests.support import chunked
from tests.support.command_line import Server
from tests.support.server_process import stopped

ROWS = np.random.default_rng(2).uniform(-0.9, 0.9, (20, 3)).astype(np.float32)
MANY = np.tile(ROWS, (20, 1))
# Name of a call -> the method, its arguments, and the class of its error.
REFUSED: dict[str, tuple[str, Callable[[Any, Any], tuple[Any, ...]], dict[str, Any], type[ClientError]]] = {
    "no such model": ("describe", lambda _d, _m: ("tniy",), {}, NotFound),
    "no such version": ("model", lambda _d, _m: ("tiny", "7"), {}, NotFound),
    "rows of another width": ("infer", lambda _d, m: (m, ROWS[:, :2]), {}, InvalidInput),
    "rows of another shape": ("explain", lambda d, _m: (d, ROWS[:, :2]), {}, InvalidInput),
    "no such layer": ("edges", lambda d, _m: (d, ROWS), {"layers": [9]}, InvalidInput),
    "more rows than a query may have": ("edges", lambda d, _m: (d, np.tile(MANY, (2, 1))), {}, TooLarge),
    "an export without rows": ("drift", lambda d, _m: (d, ROWS), {}, NotSupported),
    "nobody had the time": ("explain", lambda d, _m: (d, ROWS), {"reference": MANY}, DeadlineExceeded),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_caught_by_kind(server: Server, name: str) -> None:
    method, arguments, options, kind = REFUSED[name]
    late = kind is DeadlineExceeded
    seconds = 0.005 if late else 30
    with Client(server.url) as client:
        supplied = arguments(client.describe("tiny"), client.model("tiny"))

        async def ask() -> None:
            async with AsyncClient(server.url, timeout=seconds) as other:
                await getattr(other, method)(*supplied, **options)

        with stopped(server.process.pid) if late else contextlib.nullcontext():
            with pytest.raises(ClientError) as waited:
                getattr(client.within(seconds), method)(*supplied, **options)
            with pytest.raises(ClientError) as awaited:
                asyncio.run(ask())
    assert (type(waited.value), type(awaited.value)) == (kind, kind)
    assert (waited.value.code, str(waited.value)) == (awaited.value.code, str(awaited.value))
    unchained(waited.value)
    unchained(awaited.value)


def unchained(error: ClientError) -> None:
    """The traceback has only frames of this client: the client translates gRPC's error and does not chain it."""
    text = "".join(traceback.format_exception(error))
    assert [words for words in ("RpcError", "direct cause", "During handling") if words in text] == [], text


def test_errors_of_streams_and_of_many_requests_are_not_chained(server: Server) -> None:
    async def watch() -> None:
        async with AsyncClient(server.url) as client:
            async for _ in client.watch_statistics("tniy"):
                pass

    with Client(server.url) as client:
        described, model = client.describe("tiny"), client.model("tiny")
        frame = pd.DataFrame(ROWS, columns=["a", "b", "c"])
        named = dataclasses.replace(described, names=Names(features=("a", "b", "d")))
        ends: tuple[Callable[[], Any], ...] = (
            lambda: list(client.watch_statistics("tniy")),
            lambda: list(client.curves("tiny", layers=(9,))),
            lambda: chunked.infer(client, dataclasses.replace(model, name="tniy"), ROWS),
            lambda: chunking.explain(client, described, ROWS[:, :2]),
            lambda: list(chunking.edges(client, described, ROWS, layers=(9,))),
            lambda: client.explain(named, frame),
            lambda: asyncio.run(watch()),
        )
        for end in ends:
            with pytest.raises(ClientError) as caught:
                end()
            unchained(caught.value)
