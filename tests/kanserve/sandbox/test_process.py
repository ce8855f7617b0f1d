"""Tests of `sandbox/process.py`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from kanserve.config.settings import Settings
from kanserve.errors import LoadError, LoadReason
from kanserve.models.admission import Sandbox
from tests.support.failing_calls import bundle, during, forker, grandchildren

pytestmark = pytest.mark.slow


def test_what_ends_the_process_says_how(tmp_path: Path) -> None:
    """As a graph that crashes the runtime does."""

    async def crash(trial: Sandbox, task: asyncio.Task[None]) -> None:
        (pid,) = await grandchildren(trial, 1)
        os.kill(pid, signal.SIGSEGV)

    error = during(tmp_path, crash).exception()
    assert isinstance(error, LoadError)
    assert (error.reason, str(error)) == (LoadReason.CRASH, "the version crashed the load-check process with SIGSEGV")


def test_who_forks_is_replaced(tmp_path: Path) -> None:
    """After one kill, another process checks the version again; the second kill is reported."""

    async def kill(trial: Sandbox, task: asyncio.Task[None]) -> None:
        first = forker(trial)
        os.kill(first, signal.SIGKILL)
        while trial._asker._end is None or forker(trial) == first:
            await asyncio.sleep(0.02)
        await grandchildren(trial, 1)
        assert not Path(f"/proc/{first}").exists()
        os.kill(forker(trial), signal.SIGKILL)

    error = during(tmp_path, kill).exception()
    assert isinstance(error, LoadError)
    assert (error.reason, "the load-check process exited twice" in str(error)) == (LoadReason.INTERNAL, True)


def test_many_pass_through_one_process(tmp_path: Path) -> None:
    item = bundle(tmp_path)

    async def main() -> None:
        trial = Sandbox(Settings(repository=tmp_path))
        await trial.validate(item)
        pid = forker(trial)
        begun = time.monotonic()
        await asyncio.gather(*(trial.validate(item) for _ in range(20)))
        assert time.monotonic() - begun < 5
        assert forker(trial) == pid
        assert len(os.listdir(f"/proc/{pid}/fd")) < 8
        trial._asker.close()

    asyncio.run(main())
