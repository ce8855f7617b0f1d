"""The frame around the commands: help, exit codes, streams, interruptions."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kanserve import cli, config
from kanserve.commands import serve
from tests.cli.running import CLEAN, COMMAND, Server, checkpoint, document, kanserve

HEAVY = ("numpy", "grpc", "google.protobuf", "onnx", "onnxruntime", "pydantic", "rich", "structlog", "torch")


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from kanserve import cli
try:
    cli.main(["--help"])
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_help_is_quick() -> None:
    """In seconds of processor time, which other work on the machine does not change."""
    bare = min(_cost(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(5))
    assert min(_cost(lambda: kanserve("--help")) for _ in range(5)) - bare < 0.2


def _cost(call: Callable[[], object]) -> float:
    """What the processes that a call starts and awaits take."""
    before = os.times()
    call()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_and_json(name: str) -> None:
    done = kanserve(name, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_every_setting_has_a_flag() -> None:
    assert {"repository", *serve.FLAGS, *serve.SWITCHES} == set(config.Settings.model_fields)


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("infer",), ("infer", "tiny", "--nonsense")])
def test_a_wrong_command_exits_2(arguments: tuple[str, ...]) -> None:
    done = kanserve(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


def test_version() -> None:
    assert kanserve("--version").stdout.startswith("kanserve 0.")


def test_export_hands_over(tmp_path: Path) -> None:
    state = checkpoint(tmp_path / "one.safetensors", (2, 1))
    document(kanserve("export", state, "--repository", tmp_path / "models", "--name", "one", "--json"))
    assert (tmp_path / "models" / "one" / "1" / "manifest.json").is_file()
    again = kanserve("export", tmp_path / "none.pt", "--repository", tmp_path / "models", "--json")
    assert again.returncode == 2


@pytest.mark.parametrize(
    ("command", "missing", "extra"), [("export", "onnx", "export"), ("serve", "structlog", "serve")]
)
def test_a_missing_extra_is_named(command: str, missing: str, extra: str) -> None:
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from kanserve import cli
raise SystemExit(cli.main([{command!r}, "--help"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"run {sys.executable} -m pip install -e '.[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_with_json_is_one_document() -> None:
    done = kanserve("models", "--url", "127.0.0.1:1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"] in done.stderr


def test_a_reader_that_leaves_is_no_crash(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((20000, 3), np.float32))
    command = [*COMMAND, "infer", "tiny", "--input", str(tmp_path / "rows.npy"), "--url", server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""


def test_an_interruption_is_130_and_silent() -> None:
    # A listener that never answers: the command waits for its deadline.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        command = [*COMMAND, "models", "--url", url, "--timeout", "60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN) as process:
            connection, _ = listener.accept()
            with connection:
                os.kill(process.pid, signal.SIGINT)
                out, errors = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in errors


def test_a_deadline_is_kept_and_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        began = time.monotonic()
        done = kanserve("models", "--url", url, "--timeout", "1")
    assert done.returncode == 1
    assert time.monotonic() - began < 10
    assert "within 1 s" in done.stderr or "no server answers" in done.stderr


@pytest.mark.parametrize("command", ["infer", "edges"])
def test_a_missing_input_is_wrong_whether_a_server_answers_or_not(command: str, tmp_path: Path) -> None:
    done = kanserve(command, "any", "--input", str(tmp_path / "rows.npy"), "--url", "127.0.0.1:1")
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
