"""Sandbox calls during concurrent failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kanexport.contract import manifest as contract
from kanserve.config.settings import Settings
from kanserve.models.admission import Sandbox
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from tests.support import hostile_graphs as hostile
from tests.support import toy_model
from tests.support.wait import until_async


def bundle(root: Path, data: bytes | None = None, name: str = contract.MODEL_FILE) -> Bundle:
    """The toy, with another file in it."""
    directory = toy_model.write(root)
    if data is not None:
        hostile.replaced(directory, data, name)
    (candidate,) = layout.scan(root, plain_onnx=False)
    return layout.load(candidate, 2**30)


def during(
    root: Path, meanwhile: Callable[[Sandbox, asyncio.Task[None]], Awaitable[None]], **settings: Any
) -> asyncio.Task[None]:
    """Run `meanwhile` during the load check of an endless version; returns the task of the load check."""
    item = bundle(root, hostile.endless())

    async def main() -> asyncio.Task[None]:
        trial = Sandbox(Settings(repository=root, graph_allowlist="relaxed", **settings))
        task = asyncio.create_task(trial.validate(item))
        await grandchildren(trial, 1)
        await meanwhile(trial, task)
        await asyncio.wait([task])
        trial._asker.close()
        return task

    return asyncio.run(main())


def forker(trial: Sandbox) -> int:
    """The process that forks."""
    assert trial._asker._end is not None
    peeked = trial._asker._end.peek()
    assert peeked is not None
    return int(peeked[2][0].pid)


async def grandchildren(trial: Sandbox, wanted: int) -> list[int]:
    """Those that try something, once there are so many."""

    def children() -> list[int]:
        if trial._asker._requests is None:
            return []
        pid = forker(trial)
        pids = list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
        return pids if len(pids) == wanted else []

    return await until_async(children, f"{wanted} processes")
