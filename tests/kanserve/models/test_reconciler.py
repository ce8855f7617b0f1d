"""Tests of `models/reconciler.py`."""

import asyncio
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kanexport.shared import manifest as manifests
from kanserve.config.settings import Settings
from kanserve.models.admission import Admission
from kanserve.models.reconciler import Reconciler
from kanserve.models.registry import Registry, State
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.repository.layout import Bundle, Candidate, Texts
from kanserve.sandbox import pool
from kanserve.system import resources
from tests.kanserve.grpc_api.hot_path.test_method import nothing
from tests.support import toy_model


def test_a_version_that_goes_while_it_is_read_is_forgotten_and_one_that_fails_has_two_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, metrics, read = Registry(), Metrics(), layout.load
    settings = Settings(repository=tmp_path, load_check=False)
    reconciler = Reconciler(settings, 1, registry, metrics, nothing)

    def gone(candidate: Candidate, most: int, actual: Texts | None = None) -> Bundle:
        if candidate.version == 2:
            shutil.rmtree(tmp_path / "toy" / "2")
        return read(candidate, most, actual)

    monkeypatch.setattr(layout, "load", gone)

    async def all_of_it() -> None:
        toy_model.write(tmp_path)
        await reconciler.load(asyncio.Event())
        toy_model.write(tmp_path, version=2)
        toy_model.write(tmp_path, version=3, reference_scale=1.5)
        for _ in range(2):
            await reconciler._scan_and_act(time.monotonic())

    asyncio.run(all_of_it())
    assert {entry.version: entry.state for entry in registry.entries()} == {1: State.READY, 3: State.UNAVAILABLE}
    series = {v: [s for s in metrics.text().decode().splitlines() if f'version="{v}"' in s] for v in (1, 2, 3)}
    assert len(series[1]) > 100
    assert series[2] == []
    assert sorted(series[3]) == [
        'kanserve_model_loaded{model="toy",version="3"} 0.0',
        'kanserve_model_rejected{model="toy",version="3"} 1.0',
    ]


SAYS: dict[str, tuple[str, bytes, str]] = {
    "lists": (manifests.FILE_NAME, b'{"format": 1, "x": [' + b"[]," * 1_390_000 + b"1]}", "expected at most 100000"),
    "objects": (manifests.FILE_NAME, b'{"format": 1, "x": [' + b'{"a":1},' * 90_000 + b"1]}", "unknown key 'x'"),
    "numbers": (manifests.FILE_NAME, b'{"format": 1, "notes": [' + b"1," * 2_000_000 + b"1]}", "is missing"),
    "too large": (manifests.FILE_NAME, b'{"format": 1, "x": [' + b"1," * 2_200_000 + b"1]}", "at most 4194304"),
    "config": ("../config.pbtxt", b"input{}" * 18_000, "does not have the input"),
}


def test_what_a_version_says_is_parsed_elsewhere_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's process parses no file that the load check rejects, and it still loads the good version."""
    toy_model.write(tmp_path)
    for name, (path, data, _) in SAYS.items():
        (toy_model.write(tmp_path, name.replace(" ", "-")) / path).write_bytes(data)
    registry, parsed, loads = Registry(), [], manifests.loads

    def counted(data: bytes, *rest: Any, **more: Any) -> manifests.Manifest:
        parsed.append(len(data))
        return loads(data, *rest, **more)

    monkeypatch.setattr(manifests, "loads", counted)
    reconciler = Reconciler(Settings(repository=tmp_path), 1, registry, Metrics(), nothing)
    asyncio.run(reconciler.load(asyncio.Event()))
    result = {entry.name: (entry.state, entry.reason) for entry in registry.entries()}
    assert result.pop("toy") == (State.READY, "")
    for name, (_, _, says) in SAYS.items():
        state, reason = result[name.replace(" ", "-")]
        assert (state, says in reason) == (State.UNAVAILABLE, True), (name, reason)
    assert parsed
    assert max(parsed) < 100_000


@pytest.mark.parametrize(("most", "at_once"), [(5, True), (4, False)])
def test_models_load_at_the_same_time_unless_some_may_be_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, at_once: bool
) -> None:
    """Then the first ones are served. The versions of one model load one after the other."""
    for name in "abcde":
        toy_model.write(tmp_path, name)
    toy_model.write(tmp_path, "a", version=2)
    running, seen, take = set[str](), list[set[str]](), Admission.take

    async def counted(self: Admission, candidate: Candidate, *rest: Any) -> Any:
        assert candidate.name not in running
        running.add(candidate.name)
        seen.append(set(running))
        try:
            return await take(self, candidate, *rest)
        finally:
            running.discard(candidate.name)

    monkeypatch.setattr(Admission, "take", counted)
    monkeypatch.setattr(pool, "STARTING", 600.0)  # a busy machine is no failure
    monkeypatch.setattr(resources, "_open", set())  # without the loads of other tests in this process
    registry = Registry()
    settings = Settings(repository=tmp_path, max_models=most, load_timeout=600)
    reconciler = Reconciler(settings, 1, registry, Metrics(), nothing)
    asyncio.run(reconciler.load(asyncio.Event()))
    reasons = {entry.name: entry.reason for entry in registry.entries() if entry.state is not State.READY}
    assert list(reasons) == list("abcde")[most:], reasons
    assert registry.ready_versions("a") == [1, 2]
    assert (max(map(len, seen)) > 1) is at_once
    assert sys.getswitchinterval() == pytest.approx(resources.USUAL_SWITCH)
