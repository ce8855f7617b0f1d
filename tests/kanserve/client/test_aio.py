"""Sync and async clients against real servers: equal results, error classes, and a server that restarts."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pytest

from kanserve import AsyncClient, Client, NotFound, Unreachable
from tests.support.command_line import Server
from tests.support.server_process import stopped
from tests.support.wait import turns

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


def plain(answer: Any) -> Any:
    if dataclasses.is_dataclass(answer):
        return {field.name: plain(getattr(answer, field.name)) for field in dataclasses.fields(answer)}
    if isinstance(answer, np.ndarray):
        return answer.dtype.str, answer.shape, answer.tobytes()
    if isinstance(answer, dict):
        return {name: plain(value) for name, value in answer.items()}
    return [plain(item) for item in answer] if isinstance(answer, tuple | list) else answer


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


def test_an_awaited_client_needs_a_loop() -> None:
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        AsyncClient("127.0.0.1:1")
