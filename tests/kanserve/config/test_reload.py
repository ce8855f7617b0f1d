"""Reload of settings on SIGHUP: reloadable changes apply, others are pending restart, broken files are ignored."""

import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.config import sources
from kanserve.config.reload import Change, Reload
from kanserve.config.settings import Settings
from tests.kanserve.server.test_supervisor import children
from tests.support import toy_model
from tests.support.command_line import CLEAN, COMMAND
from tests.support.server_process import INFERENCE, request
from tests.support.tiers import full
from tests.support.wait import until, until_async

GOOD = request(np.zeros((1, 3), np.float32)).SerializeToString()
WRONG = request(np.zeros((1, 7), np.float32)).SerializeToString()


@dataclass
class Configured:
    process: subprocess.Popen[str]
    file: Path
    log: Path
    addresses: dict[str, str]

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self.process.send_signal(signal.SIGHUP)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Lines of an event so far, without a line that the server is writing."""
        whole = self.log.read_text().rpartition("\n")[0].splitlines()
        return [line for line in map(json.loads, whole) if line["event"] == event]

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://{self.addresses['metrics']}/metrics", timeout=60) as response:
            (line,) = [line for line in response.read().decode().splitlines() if line.startswith(f"{name} ")]
        return float(line.split()[1])

    def infer(self, data: bytes) -> None:
        with (
            grpc.insecure_channel(self.addresses["grpc"], [("grpc.use_local_subchannel_pool", 1)]) as channel,
            contextlib.suppress(grpc.RpcError),
        ):
            channel.unary_unary(f"{INFERENCE}ModelInfer")(data, timeout=60)


@contextlib.contextmanager
def configured(folder: Path, *flags: str) -> Iterator[Configured]:
    toy_model.write(folder / "models")
    file, log = folder / "kanserve.toml", folder / "log"
    file.write_text("")
    command = [*COMMAND, "serve", str(folder / "models"), "--config", str(file), "--json", "--log-format", "json"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--drain-delay-seconds", "0", *flags]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=errors, text=True, env=CLEAN) as process,
    ):
        try:
            assert process.stdout is not None
            yield Configured(process, file, log, json.loads(process.stdout.readline()))
        finally:
            process.kill()


def require_the_same_of_new_workers(server: Configured) -> None:
    """Workers that replace killed ones have the changed settings."""
    for child in children(server.process.pid):
        os.kill(child, signal.SIGKILL)
    until(lambda: len(server.lines("worker_exited")) == 2)
    until(lambda: server.metric("kanserve_workers") == 2)
    before = len(server.lines("request_completed"))
    until(lambda: server.infer(GOOD) or len(server.lines("request_completed")) > before)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=full("combination"))])
def test_the_file_changes_while_the_server_runs(tmp_path: Path, workers: int) -> None:
    with configured(tmp_path, "--workers", str(workers), "--threads", str(workers)) as server:
        server.infer(GOOD)
        server.write('access_log = "all"\n')
        until(lambda: server.lines("settings_reloaded"))
        assert server.lines("settings_reloaded")[0]["changed"] == {"access_log": "all"}
        until(lambda: server.infer(GOOD) or server.lines("request_completed"))
        assert server.lines("request_completed")[0]["code"] == "OK"
        if workers > 1:
            require_the_same_of_new_workers(server)

        server.write('access_log = "all"\nmax_pending_requests = 7\nreflection = true\n')
        until(lambda: server.lines("settings_pending_restart"))
        (reported,) = server.lines("settings_pending_restart")
        assert reported["settings"] == ["reflection", "max_pending_requests"]
        until(lambda: server.metric("kanserve_settings_pending_restart") == 2)

        before = len(server.lines("request_completed"))
        server.write('acess_log = "none"\n')
        until(lambda: server.lines("settings_reload_failed"))
        (reported,) = server.lines("settings_reload_failed")
        assert (reported["code"], reported["hint"]) == ("setting-unknown", "did you mean 'access_log'?")
        until(lambda: server.metric("kanserve_settings_reload_failed") == 1)
        until(lambda: server.infer(GOOD) or len(server.lines("request_completed")) > before)  # as it was said before

        server.write('log_level = "error"\n')
        until(lambda: len(server.lines("settings_reloaded")) == 3)
        until(lambda: server.metric("kanserve_settings_reload_failed") == 0)
        assert server.metric("kanserve_settings_pending_restart") == 0
        before = len(server.lines("request_completed"))
        server.infer(WRONG)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert len(server.lines("request_completed")) == before
        assert server.lines("shutdown_started") == server.lines("server_stopped") == []  # as of the new level


async def test_asked_twice_at_once_is_read_to_the_last_state(tmp_path: Path) -> None:
    result = [Settings(repository=tmp_path, max_watch_streams=count) for count in (1, 2, 3)]
    seen: list[Change] = []
    reload = Reload(result[0], lambda: result.pop(0))
    reload.subscribe(seen.append)
    reload.request()
    reload.request()
    await until_async(lambda: seen)
    reload.request()
    await until_async(lambda: len(seen) >= 2)
    assert [change.live["max_watch_streams"] for change in seen] == [1, 2]


async def test_flags_and_variables_win_over_the_file_once_more(tmp_path: Path) -> None:
    file = tmp_path / "kanserve.toml"
    file.write_text("max_watch_streams = 5\ndrain_delay_seconds = 1.5\n")
    flags = {"repository": tmp_path, "max_watch_streams": 9}
    seen: list[Change] = []
    reload = Reload(sources.load(flags, config=file).settings, lambda: sources.load(flags, config=file).settings)
    reload.subscribe(seen.append)
    texts = ("max_watch_streams = 6\ndrain_delay_seconds = 2.5\n", "drain_delay_seconds = false2\n")
    for text in (*texts, "drain_grace_seconds = -1\n", "", None):
        _ = file.unlink() if text is None else file.write_text(text)
        wanted = len(seen) + 1
        reload.request()
        await until_async(lambda wanted=wanted: len(seen) == wanted)
    assert [change.refused for change in seen] == [False, True, True, False, True]
    assert [change.live["drain_delay_seconds"] for change in seen] == [2.5, 2.5, 2.5, 5.0, 5.0]
    assert {change.live["max_watch_streams"] for change in seen} == {9}
