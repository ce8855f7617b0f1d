"""Keeper of a server: real servers that end, are killed, drain, or do not start."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kanserve.contrib.ray import child
from kanserve.contrib.ray.child import Keeper
from tests.support import toy_model
from tests.support.tiers import full
from tests.support.wait import until

# A process that says the id of its server, and then waits for the end of its input.
OWNER = """
import json, sys
from kanserve.contrib.ray.child import Keeper
from tests.support.wait import until
keeper = Keeper(json.loads(sys.argv[1]), 1.0)
until(lambda: keeper.state().state == "serving")
print(keeper.state().pid, flush=True)
sys.stdin.read()
"""


def settings(repository: Path) -> dict[str, object]:
    ports = {"grpc_port": 0, "metrics_port": 0, "drain_delay_seconds": 0.0}
    return {"repository": str(repository), **ports, "load_check": False}


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
        until(lambda: keeper.state().state == "serving")
        first = keeper.state()
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: keeper.state().state == "serving" and keeper.state().pid != first.pid)
        assert keeper.state().restarts == 1
    finally:
        code = keeper.stop()
    assert code == 0
    assert keeper.state().state == "stopped"


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    keeper = Keeper(settings(tmp_path / "absent"), 1.0)
    try:
        until(lambda: keeper.state().state == "failed" and keeper.state().code)
        assert "absent" in keeper.state().error
    finally:
        keeper.stop()


@full("load")
def test_a_server_ends_with_the_process_of_its_keeper(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    command = [sys.executable, "-c", OWNER, json.dumps(settings(tmp_path))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    until(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())
