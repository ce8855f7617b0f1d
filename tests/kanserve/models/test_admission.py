"""Versions that would harm the server, tried in a process of their own: what becomes of them, and of the others."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.contract import manifest as contract
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.models.admission import Sandbox
from kanserve.models.reconciler import Reconciler
from kanserve.models.registry import Registry, State
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from kanserve.runtime import base
from kanserve.sandbox import pool
from kanserve.sandbox.job import Job
from tests.kanserve.grpc_api.test_request_cache import nothing
from tests.support import hostile_graphs as hostile
from tests.support import toy_model
from tests.support.server_process import launched, serving, wait_until

pytestmark = pytest.mark.slow

MIB = 2**20
JOB = Job("ort", "cpu", 1, True, 1, 10, MIB, {}, None)


def bundle(root: Path, data: bytes | None = None, name: str = contract.MODEL_FILE) -> Bundle:
    """The toy, with another file in it."""
    directory = toy_model.write(root)
    if data is not None:
        hostile.replaced(directory, data, name)
    (candidate,) = layout.scan(root, plain_onnx=False)
    return layout.load(candidate, 2**30)


def tried(one: Bundle, root: Path, **settings: Any) -> None:
    """Raises what the trial raises."""
    asyncio.run(Sandbox(Settings(repository=root, **settings)).validate(one))


REFUSED: list[tuple[str, bytes, str, dict[str, Any], LoadReason, str]] = [
    ("loop", hostile.endless(), "model.onnx", {}, LoadReason.STRUCTURE, "operator 'Loop'"),
    (
        "endless",
        hostile.endless(),
        "model.onnx",
        {"graph_allowlist": "relaxed", "load_timeout": 1},
        LoadReason.TIME,
        "within 1 s (load_timeout)",
    ),
    ("huge", hostile.huge(), "model.onnx", {}, LoadReason.MEMORY, "(load_memory_bytes)"),
    ("huge batch", hostile.huge_batch(), "model.onnx", {}, LoadReason.MEMORY, "not enough memory to run it"),
    ("no edges", b"none", "edges_l1.onnx", {}, LoadReason.STRUCTURE, "edges_l1.onnx: it is no ONNX file"),
    ("other edges", toy_model.edge_graph(0), "edges_l1.onnx", {}, LoadReason.MISMATCH, "does not take 'layer1_in'"),
    ("loop of edges", hostile.endless(), "edges_l0.onnx", {}, LoadReason.STRUCTURE, "edges_l0.onnx: operator 'Loop'"),
    ("foreign", hostile.foreign(), "model.onnx", {}, LoadReason.STRUCTURE, "com.microsoft"),
    ("dual", hostile.dual(), "model.onnx", {"graph_allowlist": "relaxed"}, LoadReason.STRUCTURE, "more than once"),
    ("deep", hostile.chained(2000), "model.onnx", {"graph_allowlist": "relaxed"}, LoadReason.RUNTIME, "cannot load"),
]


@pytest.mark.parametrize(
    ("data", "name", "settings", "reason", "text"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_harms_is_refused_with_a_reason(
    tmp_path: Path, data: bytes, name: str, settings: dict[str, Any], reason: LoadReason, text: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(LoadError) as caught:
        tried(bundle(tmp_path, data, name), tmp_path, **settings)
    assert (caught.value.reason, text in str(caught.value)) == (reason, True), str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("settings", [{}, {"graph_allowlist": "relaxed"}, {"load_memory_bytes": 64 * MIB}])
def test_what_is_as_it_should_be_passes(tmp_path: Path, settings: dict[str, Any]) -> None:
    tried(bundle(tmp_path), tmp_path, **settings)


def test_weights_in_a_file_are_handed_over(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path)
    weights = toy_model.W0.tobytes()
    (directory / contract.WEIGHTS_FILE).write_bytes(weights)
    hostile.replaced(directory, weights, contract.WEIGHTS_FILE)
    hostile.replaced(directory, toy_model.graph(external=True))
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    tried(layout.load(candidate, 2**30), tmp_path)


def test_a_plain_graph_is_tried_as_well(tmp_path: Path) -> None:
    (tmp_path / "plain" / "1").mkdir(parents=True)
    (tmp_path / "plain" / "1" / contract.MODEL_FILE).write_bytes(hostile.huge_batch())
    (candidate,) = layout.scan(tmp_path, plain_onnx=True)
    with pytest.raises(LoadError, match="not enough memory to run it"):
        tried(layout.load(candidate, 2**30), tmp_path)


SAYS: dict[str, tuple[str, bytes, str]] = {
    "lists": (contract.FILE_NAME, b'{"format": 1, "x": [' + b"[]," * 1_390_000 + b"1]}", "more than 100000"),
    "objects": (contract.FILE_NAME, b'{"format": 1, "x": [' + b'{"a":1},' * 90_000 + b"1]}", "unknown key 'x'"),
    "numbers": (contract.FILE_NAME, b'{"format": 1, "notes": [' + b"1," * 2_000_000 + b"1]}", "is missing"),
    "too large": (contract.FILE_NAME, b'{"format": 1, "x": [' + b"1," * 2_200_000 + b"1]}", "more than 4194304"),
    "config": ("../config.pbtxt", b"input{}" * 18_000, "lacks the input"),
}


def test_what_a_version_says_is_parsed_elsewhere_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's process parses no file that the load check rejects, and it still loads the good version."""
    toy_model.write(tmp_path)
    for name, (path, data, _) in SAYS.items():
        (toy_model.write(tmp_path, name.replace(" ", "-")) / path).write_bytes(data)
    registry, parsed, loads = Registry(), [], contract.loads

    def counted(data: bytes, *rest: Any, **more: Any) -> contract.Manifest:
        parsed.append(len(data))
        return loads(data, *rest, **more)

    monkeypatch.setattr(contract, "loads", counted)
    reconciler = Reconciler(Settings(repository=tmp_path), base.load("ort"), 1, registry, Metrics(), nothing)
    asyncio.run(reconciler.load(asyncio.Event()))
    found = {entry.name: (entry.state, entry.reason) for entry in registry.entries()}
    assert found.pop("toy") == (State.READY, "")
    for name, (_, _, says) in SAYS.items():
        state, reason = found[name.replace(" ", "-")]
        assert (state, says in reason) == (State.UNAVAILABLE, True), (name, reason)
    assert parsed
    assert max(parsed) < 100_000


def test_a_device_that_is_not_there_concerns_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'cuda' is not available"):
        tried(bundle(tmp_path), tmp_path, device="cuda")


def during(
    root: Path, meanwhile: Callable[[Sandbox, asyncio.Task[None]], Awaitable[None]], **settings: Any
) -> asyncio.Task[None]:
    """An endless version is tried while something happens; the task that tried it."""
    one = bundle(root, hostile.endless())

    async def main() -> asyncio.Task[None]:
        trial = Sandbox(Settings(repository=root, graph_allowlist="relaxed", **settings))
        task = asyncio.create_task(trial.validate(one))
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
    end = time.monotonic() + 20
    while time.monotonic() < end:
        await asyncio.sleep(0.02)
        if trial._asker._requests is not None:
            pid = forker(trial)
            children = list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
            if len(children) == wanted:
                return children
    raise AssertionError(f"there are never {wanted} processes")


def test_what_ends_the_process_says_how(tmp_path: Path) -> None:
    """As a graph that crashes the runtime does."""

    async def crash(trial: Sandbox, task: asyncio.Task[None]) -> None:
        (pid,) = await grandchildren(trial, 1)
        os.kill(pid, signal.SIGSEGV)

    error = during(tmp_path, crash).exception()
    assert isinstance(error, LoadError)
    assert (error.reason, str(error)) == (LoadReason.CRASH, "it crashed the sandbox process, with SIGSEGV")


def test_nothing_is_left_running_when_nobody_waits(tmp_path: Path) -> None:
    async def cancel(trial: Sandbox, task: asyncio.Task[None]) -> None:
        task.cancel()
        await grandchildren(trial, 0)

    assert during(tmp_path, cancel).cancelled()


def test_who_forks_is_replaced(tmp_path: Path) -> None:
    """Killed once, another takes its place and the version is tried again; the second time it is told."""

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
    assert (error.reason, "ended twice" in str(error)) == (LoadReason.INTERNAL, True)


def test_what_does_not_even_end_in_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own timer cannot end a process that is stopped: who forked it ends."""
    monkeypatch.setattr(pool, "GRACE", 0.5)

    async def stop(trial: Sandbox, task: asyncio.Task[None]) -> None:
        (pid,) = await grandchildren(trial, 1)
        os.kill(pid, signal.SIGSTOP)

    error = during(tmp_path, stop, load_timeout=1).exception()
    assert isinstance(error, LoadError)
    assert error.reason is LoadReason.TIME


def test_where_no_process_can_be_had_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*parts: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(pool, "_started", refuse)
    with pytest.raises(LoadError, match=r"no process could be had .* load_check = false loads without") as caught:
        tried(bundle(tmp_path), tmp_path)
    assert caught.value.reason is LoadReason.INTERNAL


def test_a_process_that_cannot_start_is_told() -> None:
    with pytest.raises(LoadError, match="ended twice"):
        asyncio.run(pool.SandboxClient("nope").validate(JOB, {}))


def test_a_bug_is_told_with_its_place() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)process\.py.*KeyError: 'model\.onnx'") as caught:
        asyncio.run(pool.SandboxClient("ort").validate(JOB, {}))
    assert "Traceback" in str(caught.value)


def test_without_a_trial_only_the_manifest_is_checked(tmp_path: Path) -> None:
    one = bundle(tmp_path, hostile.endless())
    tried(one, tmp_path, load_check=False)
    assert one.manifest is not None
    with pytest.raises(LoadError, match="max_batch_size"):
        tried(dataclasses.replace(one, manifest=dataclasses.replace(one.manifest, max_batch_size=0)), tmp_path)


def test_who_forks_goes_when_there_is_nothing_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE", 0.05)
    one = bundle(tmp_path)

    async def main() -> None:
        trial = Sandbox(Settings(repository=tmp_path))
        for _ in range(2):
            await trial.validate(one)
            pid = forker(trial)
            await asyncio.sleep(0.3)
            assert not Path(f"/proc/{pid}").exists()

    asyncio.run(main())


def test_many_pass_through_one_process(tmp_path: Path) -> None:
    one = bundle(tmp_path)

    async def main() -> None:
        trial = Sandbox(Settings(repository=tmp_path))
        await trial.validate(one)
        pid = forker(trial)
        begun = time.monotonic()
        await asyncio.gather(*(trial.validate(one) for _ in range(20)))
        assert time.monotonic() - begun < 5
        assert forker(trial) == pid
        assert len(os.listdir(f"/proc/{pid}/fd")) < 8
        trial._asker.close()

    asyncio.run(main())


def test_others_serve_beside_what_is_refused(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    for name, data in (("endless", hostile.endless()), ("huge", hostile.huge())):
        hostile.replaced(toy_model.write(tmp_path, name), data)
    with serving(tmp_path, load_check=True, graph_allowlist="relaxed", load_timeout=1) as server:
        x = np.ones((1, 3), np.float32)
        np.testing.assert_allclose(server.infer(x), toy_model.outputs(x), rtol=1e-5)
        reasons = {line["model"]: line["kind"] for line in server.lines() if line["event"] == "model_load_failed"}
        assert reasons == {"endless": "time", "huge": "memory"}
        text = server.metrics()
        assert 'kanserve_model_load_failures_total{reason="time"} 1.0' in text
        assert server.stop() == 0


@pytest.mark.parametrize("trial", [True, False])
def test_signals_work_while_a_version_loads_without_end(tmp_path: Path, trial: bool) -> None:
    """Even where it is not tried first."""
    hostile.replaced(toy_model.write(tmp_path, "endless"), hostile.endless())
    with launched(tmp_path, load_check=trial, graph_allowlist="relaxed", load_timeout=60) as (process, log):
        wait_until(lambda: '"runtime_selected"' in log.read_text(), 30)
        if trial:
            wait_until(lambda: grandchild(process.pid), 30)
        else:
            time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, log.read_text()


def grandchild(pid: int) -> bool:
    """Whether one works."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(Path(f"/proc/{child}/task/{child}/children").read_text() for child in children)
