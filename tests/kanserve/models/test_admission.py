"""Admission: a separate process checks harmful versions, and other versions are unaffected."""

import asyncio
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from kanexport.shared import manifest as manifests
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.models.admission import Sandbox
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from kanserve.sandbox import pool
from tests.support import hostile_bundles as hostile
from tests.support import toy_model
from tests.support.bad_requests import not_loaded
from tests.support.failures import bundle, during, forker, grandchildren
from tests.support.server_process import launched
from tests.support.tiers import full, spread
from tests.support.wait import until, until_async

MIB = 2**20


def tried(entry: Bundle, root: Path, **settings: Any) -> None:
    asyncio.run(Sandbox(Settings(repository=root, **settings)).validate(entry))


RELAXED = {"graph_allowlist": "relaxed"}
REFUSED: list[tuple[bytes, str, dict[str, Any], LoadReason, str]] = [
    (hostile.endless(), "model.onnx", {}, LoadReason.STRUCTURE, "operator 'Loop'"),
    (hostile.endless(), "model.onnx", {**RELAXED, "load_timeout": 1}, LoadReason.TIME, "longer than 1 s"),
    (hostile.huge(), "model.onnx", {}, LoadReason.MEMORY, "the load check may use"),
    (hostile.huge_batch(), "model.onnx", {}, LoadReason.MEMORY, "not enough memory to run the version"),
    (hostile.endless(), "edges_l0.onnx", {}, LoadReason.STRUCTURE, "edges_l0.onnx: operator 'Loop'"),
    (hostile.chained(2000), "model.onnx", RELAXED, LoadReason.RUNTIME, "cannot load"),
]


@spread("data, name, settings, reason, text", REFUSED, 4, ids=[case[4] for case in REFUSED])
def test_what_harms_is_refused_with_a_reason(
    tmp_path: Path, data: bytes, name: str, settings: dict[str, Any], reason: LoadReason, text: str
) -> None:
    with not_loaded(reason, text) as caught:
        tried(bundle(tmp_path, data, name), tmp_path, **settings)
    assert caught.value.code != "load-error"
    assert caught.value.hint
    assert str(tmp_path) not in f"{caught.value} {caught.value.hint}"


@spread("settings", [{"graph_allowlist": "relaxed"}, {}, {"load_memory_bytes": 64 * MIB}], 1)
def test_what_is_as_it_should_be_passes(tmp_path: Path, settings: dict[str, Any]) -> None:
    tried(bundle(tmp_path), tmp_path, **settings)


@full("combination")
def test_weights_in_a_file_are_handed_over(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path)
    weights = toy_model.W0.tobytes()
    (directory / manifests.WEIGHTS_FILE).write_bytes(weights)
    hostile.replaced(directory, weights, manifests.WEIGHTS_FILE)
    hostile.replaced(directory, toy_model.graph(external=True))
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    tried(layout.load(candidate, 2**30), tmp_path)


def test_a_device_that_is_not_there_concerns_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'cuda' is not available"):
        tried(bundle(tmp_path), tmp_path, device="cuda")


def test_nothing_is_left_running_when_nobody_waits(tmp_path: Path) -> None:
    async def cancel(trial: Sandbox, task: asyncio.Task[None]) -> None:
        task.cancel()
        await grandchildren(trial, 0)

    assert during(tmp_path, cancel).cancelled()


@full("rare")
def test_what_does_not_even_end_in_time_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own timer cannot end a process that is stopped: who forked it ends."""
    monkeypatch.setattr(pool, "GRACE", -57.0)  # 3 s in all, so that the test has time to stop it

    async def stop(trial: Sandbox, task: asyncio.Task[None]) -> None:
        (pid,) = await grandchildren(trial, 1)
        os.kill(pid, signal.SIGSTOP)

    error = during(tmp_path, stop, load_timeout=60).exception()
    assert isinstance(error, LoadError)
    assert error.reason is LoadReason.TIME


def test_without_a_trial_only_the_manifest_is_checked(tmp_path: Path) -> None:
    item = bundle(tmp_path, hostile.endless())
    tried(item, tmp_path, load_check=False)
    assert item.manifest is not None
    with pytest.raises(LoadError, match="max_batch_size"):
        tried(dataclasses.replace(item, manifest=dataclasses.replace(item.manifest, max_batch_size=0)), tmp_path)


@full("rare")
async def test_who_forks_goes_when_there_is_nothing_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE", 0.05)
    item = bundle(tmp_path)
    trial = Sandbox(Settings(repository=tmp_path))
    for _ in range(2):
        await trial.validate(item)
        pid = forker(trial)
        await until_async(lambda pid=pid: not Path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("trial", [True, pytest.param(False, marks=full("combination"))])
def test_signals_work_while_a_version_loads_without_end(tmp_path: Path, trial: bool) -> None:
    hostile.replaced(toy_model.write(tmp_path, "endless"), hostile.endless())
    with launched(tmp_path, load_check=trial, graph_allowlist="relaxed", load_timeout=600) as (process, log):
        until(lambda: '"runtime_selected"' in log.read_text())
        if trial:
            until(lambda: grandchild(process.pid))
        else:  # the loop of the graph takes processor time, and the server takes none while it waits
            before = processor_seconds(process.pid)
            until(lambda: processor_seconds(process.pid) > before + 0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()


def grandchild(pid: int) -> bool:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(Path(f"/proc/{child}/task/{child}/children").read_text() for child in children)


def processor_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
