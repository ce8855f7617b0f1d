"""Sync and async clients against real servers: equal results, error classes, and a server that restarts."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanserve import AsyncClient, Client, DeadlineExceeded, NotFound, TransientError, Unreachable
from kanserve.client import base
from tests.support.command_line import Server, serving
from tests.support.programs import free_port
from tests.support.server_process import stopped
from tests.support.tiers import full
from tests.support.wait import turns, until

ROWS = np.random.default_rng(2).uniform(-0.9, 0.9, (20, 3)).astype(np.float32)
MANY = np.tile(ROWS, (20, 1))

# Name of a call -> the method, and its arguments after a model, which is described or has only its name.
OF_MODELS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "infer": ((ROWS,), {"outputs": ["y"]}),
    "edges": ((ROWS,), {"layers": [1], "top_k": 3}),
    "estimate": ((20,), {"layers": [1]}),
    "explain": ((ROWS,), {"reference": ROWS[:3], "outputs": [1]}),
    "scores": ((ROWS,), {}),
    "coverage": ((ROWS,), {}),
}
OF_NAMES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "health": (("tiny",), {}),
    "ready": ((), {}),
    "index": ((), {}),
    "model": (("tiny",), {}),
    "describe": (("tiny",), {}),
    "infer": (("tiny", ROWS.tolist()), {"outputs": ["y"]}),
    "curves": (("tiny",), {"derivative": True, "parts": True, "points": 9}),
}


def plain(response: Any) -> Any:
    """A response as what `==` compares."""
    if dataclasses.is_dataclass(response):
        return {field.name: plain(getattr(response, field.name)) for field in dataclasses.fields(response)}
    if isinstance(response, np.ndarray):
        return response.dtype.str, response.shape, response.tobytes()
    if isinstance(response, dict):
        return {name: plain(value) for name, value in response.items()}
    return [plain(item) for item in response] if isinstance(response, tuple | list) else response


async def awaited(url: str, method: str, *arguments: Any, **options: Any) -> Any:
    async with AsyncClient(url) as client:
        return await getattr(client, method)(*arguments, **options)


@pytest.mark.parametrize("method", OF_MODELS)
def test_both_clients_give_the_same_of_a_model_and_of_its_name(server: Server, method: str) -> None:
    supplied, options = OF_MODELS[method]
    with Client(server.url) as client:
        known = client.model("tiny") if method == "infer" else client.describe("tiny")
        expected = plain(getattr(client, method)(known, *supplied, **options))
        assert plain(getattr(client, method)("tiny", *supplied, **options)) == expected
        with pytest.raises(NotFound, match="tniy"):
            getattr(client, method)("tniy", *supplied, **options)
    for model in (known, "tiny"):
        assert plain(asyncio.run(awaited(server.url, method, model, *supplied, **options))) == expected


@pytest.mark.parametrize("method", OF_NAMES)
def test_what_is_awaited_is_what_the_other_client_gives(server: Server, method: str) -> None:
    supplied, options = OF_NAMES[method]
    with Client(server.url) as client:
        expected = plain(getattr(client, method)(*supplied, **options))
    assert plain(asyncio.run(awaited(server.url, method, *supplied, **options))) == expected


def test_a_task_that_is_cancelled_ends_and_the_client_goes_on(server: Server) -> None:
    async def ask() -> bool:
        async with AsyncClient(server.url) as client:
            described = await client.describe("tiny")
            with stopped(server.process.pid):  # so that the call does not end before
                task = asyncio.create_task(client.explain(described, ROWS, reference=MANY))
                await turns()
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

    with Client("127.0.0.1:1", retries=retries) as client:
        for end in (lambda: asyncio.run(ask()), client.ready):
            with pytest.raises(Unreachable, match=r"no server at 127\.0\.0\.1:1"):
                end()


def response_of(ask: Callable[[], Any]) -> Any:
    """None while no server responds: a client without retries connects again every half second."""
    with contextlib.suppress(TransientError):
        return ask()


@full("peer")
def test_a_server_that_goes_and_comes_back(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []
    pause = base.Attempts.pause
    monkeypatch.setattr(base.Attempts, "pause", lambda *given: tries.append(given) or pause(*given))
    patience: dict[str, Any] = {"retries": 60, "timeout": 120}  # a machine may be busy
    port = ("--grpc-port", str(free_port()))
    with serving(repository, tmp_path / "first", *port) as server:
        url = server.url
        hasty, patient = Client(url, retries=0), Client(url, **patience)
        expected = hasty.infer(hasty.model("tiny"), ROWS).outputs["y"]
        model = patient.model("tiny")

    async def ask() -> Any:
        async with AsyncClient(url, **patience) as client:
            return (await client.infer(model, ROWS)).outputs["y"]

    with hasty, patient, ThreadPoolExecutor(2) as pool:
        with pytest.raises(TransientError):
            hasty.infer(model, ROWS)
        waiting = [pool.submit(lambda: patient.infer(model, ROWS).outputs["y"]), pool.submit(asyncio.run, ask())]
        until(lambda: len(tries) > 5)  # some tries fail before there is anybody
        assert not any(item.done() for item in waiting)
        with serving(repository, tmp_path / "second", *port) as server:
            assert server.url == url
            for item in waiting:
                np.testing.assert_array_equal(item.result(timeout=120), expected)
            response = until(lambda: response_of(lambda: hasty.infer(model, ROWS)))
            np.testing.assert_array_equal(response.outputs["y"], expected)


def test_an_awaited_client_needs_a_loop() -> None:
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        AsyncClient("127.0.0.1:1")


def test_within_is_the_same_connection_with_another_deadline(server: Server) -> None:
    with Client(server.url, timeout=60) as client:
        other = client.within(0.004)
        described = client.describe("tiny")
        with stopped(server.process.pid), pytest.raises(DeadlineExceeded, match=r"within 0\.004 s"):
            other.explain(described, ROWS, reference=MANY)
        assert client.timeout == 60
        assert client.ready()
