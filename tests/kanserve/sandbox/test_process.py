"""Tests of `sandbox/process.py`."""

import asyncio
import os
import signal
from pathlib import Path

from kanserve.config.settings import Settings
from kanserve.errors import LoadError, LoadReason
from kanserve.models.admission import Sandbox
from kanserve.repository import layout
from tests.support.failures import bundle, during, forker, grandchildren
from tests.support.tiers import full
from tests.support.wait import turns, until_async


def test_what_ends_the_process_says_how(tmp_path: Path) -> None:
    async def crash(trial: Sandbox, task: asyncio.Task[None]) -> None:
        (pid,) = await grandchildren(trial, 1)
        os.kill(pid, signal.SIGSEGV)

    error = during(tmp_path, crash).exception()
    assert isinstance(error, LoadError)
    assert (error.reason, str(error)) == (LoadReason.CRASH, "the version crashed the load-check process with SIGSEGV")


def test_who_forks_is_replaced(tmp_path: Path) -> None:
    async def kill(trial: Sandbox, task: asyncio.Task[None]) -> None:
        first = forker(trial)
        os.kill(first, signal.SIGKILL)
        await until_async(lambda: trial._asker._end is not None and forker(trial) != first)
        await grandchildren(trial, 1)
        assert not Path(f"/proc/{first}").exists()
        os.kill(forker(trial), signal.SIGKILL)

    error = during(tmp_path, kill).exception()
    assert isinstance(error, LoadError)
    assert (error.reason, "the load-check process exited twice" in str(error)) == (LoadReason.INTERNAL, True)


async def test_parts_of_a_version_share_a_process_which_no_other_version_gets(tmp_path: Path) -> None:
    item, size = bundle(tmp_path), 2**20
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    texts = layout.texts(candidate)
    trial = Sandbox(Settings(repository=tmp_path))
    async with trial.check(size) as one, trial.check(size) as two:
        await one.parse(texts)
        first = await grandchildren(trial, 1)
        await two.parse(texts)
        both = await grandchildren(trial, 2)
        await two.run(two.prepared(item), item)
        assert set(first) < set(both)
        await one.run(one.prepared(item), item)
        threads = f"/proc/{forker(trial)}/task"
        assert len(os.listdir(threads)) == 1  # a process with threads cannot fork safely
    await grandchildren(trial, 0)
    trial.close()


@full("load")
async def test_a_version_that_ends_who_forks_does_not_affect_others(tmp_path: Path) -> None:
    """Each process of a check can be lost with that one, but only once."""
    item = bundle(tmp_path)
    trial = Sandbox(Settings(repository=tmp_path))
    await trial.validate(item)
    others = asyncio.gather(*(trial.validate(item) for _ in range(6)))
    await turns()
    os.kill(forker(trial), signal.SIGKILL)
    await others
    trial.close()


@full("load")
async def test_many_pass_through_one_process(tmp_path: Path) -> None:
    item = bundle(tmp_path)
    trial = Sandbox(Settings(repository=tmp_path))
    await trial.validate(item)
    pid = forker(trial)
    await asyncio.gather(*(trial.validate(item) for _ in range(20)))
    assert forker(trial) == pid
    assert len(os.listdir(f"/proc/{pid}/fd")) < 8
    trial._asker.close()
