"""Both clients against real servers: the same answers, errors by kind, a server that goes away and comes back."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.contract.naming import Names
from kanserve import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    NoAnswer,
    NotFound,
    NotSupported,
    TooLarge,
    Unreachable,
)
from kanserve.client import chunking
from kanserve.client.base import LONGEST_BACK_OFF, Attempts
from tests.support.command_line import Server, serving

pytestmark = pytest.mark.slow

ROWS = np.random.default_rng(2).uniform(-0.9, 0.9, (20, 3)).astype(np.float32)
MANY = np.tile(ROWS, (20, 1))

# What is asked -> the method, and its arguments from a description and a model.
CALLS: dict[str, tuple[str, Callable[[Any, Any], tuple[Any, ...]], dict[str, Any]]] = {
    "health": ("health", lambda _d, _m: ("tiny",), {}),
    "ready": ("ready", lambda _d, _m: (), {}),
    "index": ("index", lambda _d, _m: (), {}),
    "model": ("model", lambda _d, _m: ("tiny",), {}),
    "describe": ("describe", lambda _d, _m: ("tiny",), {}),
    "infer": ("infer", lambda _d, m: (m, ROWS), {}),
    "infer lists": ("infer", lambda _d, m: (m, ROWS.tolist()), {"outputs": ["y"]}),
    "edges": ("edges", lambda d, _m: (d, ROWS), {"layers": [1], "top_k": 3}),
    "curves": ("curves", lambda _d, _m: ("tiny",), {"derivative": True, "parts": True, "points": 9}),
    "explain": ("explain", lambda d, _m: (d, ROWS), {"reference": ROWS[:3], "outputs": [1]}),
    "scores": ("scores", lambda d, _m: (d, ROWS), {}),
    "coverage": ("coverage", lambda d, _m: (d, ROWS), {}),
}
# The same by the model's name alone.
NAMED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "infer": ((ROWS,), {"outputs": ["y"]}),
    "edges": ((ROWS,), {"layers": [1], "top_k": 3}),
    "estimate": ((20,), {"layers": [1]}),
    "explain": ((ROWS,), {"outputs": [1]}),
    "scores": ((ROWS,), {}),
    "coverage": ((ROWS,), {}),
}
# What is asked, and the kind of its end.
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


def plain(answer: Any) -> Any:
    """An answer as what `==` compares."""
    if dataclasses.is_dataclass(answer):
        return {field.name: plain(getattr(answer, field.name)) for field in dataclasses.fields(answer)}
    if isinstance(answer, np.ndarray):
        return answer.dtype.str, answer.shape, answer.tobytes()
    if isinstance(answer, dict):
        return {name: plain(value) for name, value in answer.items()}
    return [plain(one) for one in answer] if isinstance(answer, tuple | list) else answer


@pytest.mark.parametrize("name", CALLS)
def test_what_is_awaited_is_what_the_other_client_gives(server: Server, name: str) -> None:
    method, arguments, options = CALLS[name]
    with Client(server.url) as client:
        given = arguments(client.describe("tiny"), client.model("tiny"))
        expected = getattr(client, method)(*given, **options)

    async def ask() -> Any:
        async with AsyncClient(server.url) as client:
            return await getattr(client, method)(*given, **options)

    assert plain(asyncio.run(ask())) == plain(expected)


@pytest.mark.parametrize("method", NAMED)
def test_a_name_stands_for_the_model(server: Server, method: str) -> None:
    given, options = NAMED[method]
    with Client(server.url) as client:
        known = client.model("tiny") if method == "infer" else client.describe("tiny")
        expected = getattr(client, method)(known, *given, **options)
        assert plain(getattr(client, method)("tiny", *given, **options)) == plain(expected)
        with pytest.raises(NotFound, match="tniy"):
            getattr(client, method)("tniy", *given, **options)

    async def ask() -> Any:
        async with AsyncClient(server.url) as client:
            return await getattr(client, method)("tiny", *given, **options)

    assert plain(asyncio.run(ask())) == plain(expected)


def test_an_inference_by_name_and_version(server: Server) -> None:
    with Client(server.url) as client:
        assert client.infer("tiny", ROWS, version="1").version == "1"
        with pytest.raises(NotFound):
            client.infer("tiny", ROWS, version="2")


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_caught_by_kind(server: Server, name: str) -> None:
    method, arguments, options, kind = REFUSED[name]
    seconds = 0.005 if kind is DeadlineExceeded else 30
    with Client(server.url) as client:
        given = arguments(client.describe("tiny"), client.model("tiny"))
        with pytest.raises(ClientError) as waited:
            getattr(client.within(seconds), method)(*given, **options)

    async def ask() -> None:
        async with AsyncClient(server.url, timeout=seconds) as client:
            await getattr(client, method)(*given, **options)

    with pytest.raises(ClientError) as awaited:
        asyncio.run(ask())
    assert (type(waited.value), type(awaited.value)) == (kind, kind)
    assert (waited.value.code, str(waited.value)) == (awaited.value.code, str(awaited.value))
    unchained(waited.value)
    unchained(awaited.value)


def unchained(error: ClientError) -> None:
    """The traceback has only frames of this client: the client translates gRPC's error and does not chain it."""
    text = "".join(traceback.format_exception(error))
    assert "RpcError" not in text, text
    assert "direct cause" not in text, text
    assert "During handling" not in text, text


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
            lambda: chunking.infer(client, dataclasses.replace(model, name="tniy"), ROWS),
            lambda: chunking.explain(client, described, ROWS[:, :2]),
            lambda: list(chunking.edges(client, described, ROWS, layers=(9,))),
            lambda: client.explain(named, frame),
            lambda: asyncio.run(watch()),
        )
        for end in ends:
            with pytest.raises(ClientError) as caught:
                end()
            unchained(caught.value)


def test_calls_at_the_same_time(server: Server) -> None:
    async def ask() -> list[Any]:
        async with AsyncClient(server.url) as client:
            model = await client.model("tiny")
            return await asyncio.gather(*(client.infer(model, ROWS[at : at + 1]) for at in range(len(ROWS))))

    found = [answer.outputs["y"][0] for answer in asyncio.run(ask())]
    with Client(server.url) as client:
        np.testing.assert_array_equal(found, client.infer(client.model("tiny"), ROWS).outputs["y"])


def test_a_task_that_is_cancelled_ends_and_the_client_goes_on(server: Server) -> None:
    async def ask() -> bool:
        async with AsyncClient(server.url) as client:
            described = await client.describe("tiny")
            task = asyncio.create_task(client.explain(described, ROWS, reference=MANY))
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.ready()

    assert asyncio.run(ask())


@pytest.mark.parametrize("retries", [0, 3])
def test_nobody_there(retries: int) -> None:
    async def ask() -> None:
        async with AsyncClient("127.0.0.1:1", retries=retries) as client:
            await client.ready()

    for end in (lambda: asyncio.run(ask()), Client("127.0.0.1:1", retries=retries).ready):
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"no server answers at 127\.0\.0\.1:1"):
            end()
        assert time.monotonic() - began < 2


def in_the_end(ask: Callable[[], Any]) -> Any:
    """What one who never tries again gets by asking anew: a lost connection looks for its server every half second."""
    end = time.monotonic() + 20
    while True:
        try:
            return ask()
        except NoAnswer:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def test_a_server_that_goes_away_and_comes_back(repository: Path, tmp_path: Path) -> None:
    patience: dict[str, Any] = {"retries": 60, "timeout": 120}  # a machine may be busy
    with serving(repository, tmp_path / "first") as server:
        url = server.url
        hasty, patient = Client(url, retries=0), Client(url, **patience)
        expected = hasty.infer(hasty.model("tiny"), ROWS).outputs["y"]
        model = patient.model("tiny")

    async def ask() -> Any:
        async with AsyncClient(url, **patience) as client:
            return (await client.infer(model, ROWS)).outputs["y"]

    with hasty, patient, ThreadPoolExecutor(2) as pool:
        with pytest.raises(NoAnswer):
            hasty.infer(model, ROWS)
        waiting = [pool.submit(lambda: patient.infer(model, ROWS).outputs["y"]), pool.submit(asyncio.run, ask())]
        time.sleep(0.5)  # some tries fail before there is anybody
        assert not any(one.done() for one in waiting)
        with serving(repository, tmp_path / "second", "--grpc-port", url.rpartition(":")[2]) as server:
            assert server.url == url
            for one in waiting:
                np.testing.assert_array_equal(one.result(timeout=120), expected)
            np.testing.assert_array_equal(in_the_end(lambda: hasty.infer(model, ROWS)).outputs["y"], expected)


@settings(deadline=None)
@given(
    st.floats(0.001, 1e6), st.integers(0, 40), st.lists(st.sampled_from(list(grpc.StatusCode)), min_size=1, max_size=60)
)
def test_tries_are_bounded_and_of_what_is_unavailable(timeout: float, retries: int, codes: list[Any]) -> None:
    attempts, pauses = Attempts(timeout, retries), []
    for code in codes:
        pause = attempts.pause(code)
        if pause is None:
            break
        assert code is grpc.StatusCode.UNAVAILABLE
        pauses.append(pause)
    assert len(pauses) <= retries
    assert all(0.05 * 2**at <= pause or pause >= LONGEST_BACK_OFF / 2 for at, pause in enumerate(pauses))
    assert all(pause <= LONGEST_BACK_OFF and pause < timeout for pause in pauses)
    if timeout > 100 and len(pauses) < len(codes):
        assert len(pauses) == retries or codes[len(pauses)] is not grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Client("a:1", timeout=0), "timeout is 0, expected seconds above 0"),
        (lambda: Client("a:1", retries=-1), "retries is -1, expected 0 or more"),
        (lambda: Client("a:1").within(float("nan")), "seconds is nan"),
    ],
)
def test_what_is_no_patience(make: Callable[[], Client], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make()


def test_an_awaited_client_needs_a_loop() -> None:
    with pytest.raises(RuntimeError, match="made where an event loop runs"):
        AsyncClient("127.0.0.1:1")


def test_within_is_the_same_connection_with_another_deadline(server: Server) -> None:
    with Client(server.url, timeout=20) as client:
        other = client.within(0.004)
        described = client.describe("tiny")
        with pytest.raises(DeadlineExceeded, match=r"within 0\.004 s"):
            other.explain(described, ROWS, reference=MANY)
        assert client.timeout == 20
        assert client.ready()
