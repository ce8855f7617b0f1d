"""Admission: a separate process checks harmful versions, and other versions are unaffected."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanexport.contract import manifest as contract
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.models.admission import Sandbox
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from kanserve.sandbox import pool
from tests.support import hostile_graphs as hostile
from tests.support import toy_model
from tests.support.failing_calls import bundle, during, forker, grandchildren
from tests.support.server_process import launched, serving, wait_until

MIB = 2**20


def tried(entry: Bundle, root: Path, **settings: Any) -> None:
    """Raises what the load check raises."""
    asyncio.run(Sandbox(Settings(repository=root, **settings)).validate(entry))


REFUSED: list[tuple[str, bytes, str, dict[str, Any], LoadReason, str]] = [
    ("loop", hostile.endless(), "model.onnx", {}, LoadReason.STRUCTURE, "operator 'Loop'"),
    (
        "endless",
        hostile.endless(),
        "model.onnx",
        {"graph_allowlist": "relaxed", "load_timeout": 1},
        LoadReason.TIME,
        "longer than 1 s",
    ),
    ("huge", hostile.huge(), "model.onnx", {}, LoadReason.MEMORY, "the load check may use"),
    ("huge batch", hostile.huge_batch(), "model.onnx", {}, LoadReason.MEMORY, "not enough memory to run the version"),
    ("no edges", b"none", "edges_l1.onnx", {}, LoadReason.STRUCTURE, "edges_l1.onnx: it is not an ONNX file"),
    (
        "other edges",
        toy_model.edge_graph(0),
        "edges_l1.onnx",
        {},
        LoadReason.MISMATCH,
        "the only input of edges_l1.onnx is not 'layer1_in'",
    ),
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
    assert caught.value.code != "load-error"
    assert caught.value.hint
    assert str(tmp_path) not in f"{caught.value} {caught.value.hint}"
    assert time.monotonic() - begun < 60


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
    with pytest.raises(LoadError, match="not enough memory to run the version"):
        tried(layout.load(candidate, 2**30), tmp_path)


def test_a_device_that_is_not_there_concerns_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'cuda' is not available"):
        tried(bundle(tmp_path), tmp_path, device="cuda")


def test_nothing_is_left_running_when_nobody_waits(tmp_path: Path) -> None:
    async def cancel(trial: Sandbox, task: asyncio.Task[None]) -> None:
        task.cancel()
        await grandchildren(trial, 0)

    assert during(tmp_path, cancel).cancelled()


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


async def test_who_forks_goes_when_there_is_nothing_to_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE", 0.05)
    item = bundle(tmp_path)
    trial = Sandbox(Settings(repository=tmp_path))
    for _ in range(2):
        await trial.validate(item)
        pid = forker(trial)
        async with asyncio.timeout(60):
            while Path(f"/proc/{pid}").exists():
                await asyncio.sleep(0.02)


def test_others_serve_beside_what_is_refused(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    for name, data in (("endless", hostile.endless()), ("huge", hostile.huge())):
        hostile.replaced(toy_model.write(tmp_path, name), data)
    with serving(tmp_path, load_check=True, graph_allowlist="relaxed", load_timeout=5) as server:
        x = np.ones((1, 3), np.float32)
        np.testing.assert_allclose(server.infer(x), toy_model.outputs(x), rtol=1e-5)
        reasons = {line["model"]: line["kind"] for line in server.lines() if line["event"] == "model_load_failed"}
        assert reasons == {"endless": "time", "huge": "memory"}
        text = server.metrics()
        assert 'kanserve_model_load_failures_total{reason="time"} 1.0' in text
        assert server.stop() == 0


@pytest.mark.parametrize("trial", [True, False])
def test_signals_work_while_a_version_loads_without_end(tmp_path: Path, trial: bool) -> None:
    """Even without a load check."""
    hostile.replaced(toy_model.write(tmp_path, "endless"), hostile.endless())
    with launched(tmp_path, load_check=trial, graph_allowlist="relaxed", load_timeout=600) as (process, log):
        wait_until(lambda: '"runtime_selected"' in log.read_text())
        if trial:
            wait_until(lambda: grandchild(process.pid))
        else:
            time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()


def grandchild(pid: int) -> bool:
    """Whether one works."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any(Path(f"/proc/{child}/task/{child}/children").read_text() for child in children)
