"""Tests of `sandbox/pool.py`."""

import os
import sys
from pathlib import Path

import pytest

from kanserve.config.settings import Settings
from kanserve.errors import LoadError, LoadReason
from kanserve.models.admission import Sandbox
from kanserve.runtime.base import SessionOptions
from kanserve.sandbox import job, pool
from kanserve.sandbox.job import Job
from tests.support.bad_requests import not_loaded
from tests.support.failures import bundle

MIB = 2**20


JOB = Job(SessionOptions("cpu", 1), True, 1, 10, MIB, {}, None)


async def check(supplied: Job) -> None:
    async with pool.SandboxClient().check() as version:
        await version.run(supplied, {})


async def test_without_a_process_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*parts: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(pool, "_started", refuse)
    with not_loaded(LoadReason.INTERNAL, "the load check cannot start a process"):
        await Sandbox(Settings(repository=tmp_path)).validate(bundle(tmp_path))


async def test_a_process_that_cannot_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(LoadError, match="exited twice"):
        await check(JOB)


async def test_a_bug_is_told_with_its_place() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)process\.py.*KeyError: 'model\.onnx'") as caught:
        await check(JOB)
    assert "Traceback" in str(caught.value)


def test_a_job_is_what_was_put() -> None:
    files = {"a": b"x" * 100_000, "b": b"", "c": b"yz"}
    supplied = Job(SessionOptions("cpu", 1), False, 3, 1.5, 10, {name: len(data) for name, data in files.items()}, None)
    memory = job.put(supplied, files)
    try:
        assert job.take(memory) == (supplied, files)
        assert os.fstat(memory).st_size == 0
    finally:
        os.close(memory)
    assert supplied.most == 10 + job.FACTOR * 100_002 + job.OWN_OPERATORS + job.OF_A_THREAD
