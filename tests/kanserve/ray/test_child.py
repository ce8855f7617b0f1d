"""Keeper of a server: real servers that end, are killed, drain, or do not start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kanserve.ray import child
from kanserve.ray.child import Keeper, State
from tests.support import toy_model

SECONDS = 60.0


def until(keeper: Keeper, wanted: Callable[[State], bool]) -> State:
    end = time.monotonic() + SECONDS
    while not wanted(keeper.state()):
        assert time.monotonic() < end, keeper.state()
        time.sleep(0.05)
    return keeper.state()


def settings(repository: Path, **more: object) -> dict[str, object]:
    ports = {"grpc_port": 0, "metrics_port": 0, "drain_delay_seconds": 0.0}
    return {"repository": str(repository), **ports, "load_check": False, **more}


def test_the_command_line_has_each_setting() -> None:
    command = child.arguments({"repository": "m", "threads": 2, "kernel": False, "insecure": True, "tokens": None})
    assert command[1:6] == ["-P", "-m", "kanserve", "serve", "m"]
    assert command[6:] == ["--json", "--threads", "2", "--no-kernel", "--insecure"]


def test_variables_of_settings_do_not_reach_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KANSERVE_GRPC_PORT", "9001")
    monkeypatch.setenv("KANSERVE_URL", "127.0.0.1:9001")
    assert "KANSERVE_GRPC_PORT" not in child.environment()
    assert "KANSERVE_URL" in child.environment()


def test_a_server_that_is_killed_starts_again_and_drains(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    keeper = Keeper(settings(tmp_path), 30.0)
    try:
        first = until(keeper, lambda state: state.state == "serving")
        os.kill(first.pid, signal.SIGKILL)
        second = until(keeper, lambda state: state.state == "serving" and state.pid != first.pid)
        assert second.restarts == 1
    finally:
        code = keeper.stop()
    assert code == 0
    assert keeper.state().state == "stopped"


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    keeper = Keeper(settings(tmp_path / "absent"), 1.0)
    try:
        state = until(keeper, lambda state: state.state == "failed" and bool(state.error))
        assert "absent" in state.error
        assert state.code
    finally:
        keeper.stop()


def test_a_server_ends_with_the_process_of_its_keeper(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    code = (
        "import json, sys, time\nfrom kanserve.ray.child import Keeper\nkeeper = Keeper(json.loads(sys.argv[1]), 1.0)\n"
        "while keeper.state().state != 'serving': time.sleep(0.05)\n"
        "print(keeper.state().pid, flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, json.dumps(settings(tmp_path))], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    end = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]:
        assert time.monotonic() < end
        time.sleep(0.05)
