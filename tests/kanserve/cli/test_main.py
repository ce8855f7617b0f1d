"""Common behavior of commands: help, exit codes, streams, interruptions."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kanexport.contract.cli import console
from kanserve.cli import main
from kanserve.server import app, watchdog
from tests.support.command_line import CLEAN, COMMAND, Server, checkpoint, document, kanserve, program

HEAVY = ("numpy", "grpc", "google.protobuf", "onnx", "onnxruntime", "pydantic", "rich", "structlog", "torch")


def test_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from kanserve.cli import main
try:
    main.main(["--help"])
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in main.COMMANDS)


def test_help_is_quick() -> None:
    """In seconds of processor time, which other work on the machine does not change."""
    bare = min(_cost(lambda: subprocess.run([sys.executable, "-c", ""], check=True)) for _ in range(5))
    assert min(_cost(lambda: program("--help")) for _ in range(5)) - bare < 0.2


def _cost(call: Callable[[], object]) -> float:
    """Return the processor time of the child processes that a call starts and waits for."""
    before = os.times()
    call()
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_every_command_has_help_and_json(name: str) -> None:
    done = program(name, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


@pytest.mark.parametrize("arguments", [(), ("frobnicate",), ("infer",), ("infer", "tiny", "--nonsense")])
def test_a_wrong_command_exits_2(arguments: tuple[str, ...]) -> None:
    done = program(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


def test_version() -> None:
    assert program("--version").stdout.startswith("kanserve 0.")


def test_export_hands_over(tmp_path: Path) -> None:
    state = checkpoint(tmp_path / "one.safetensors", (2, 1))
    document(program("export", state, "--repository", tmp_path / "models", "--name", "one", "--json"))
    assert (tmp_path / "models" / "one" / "1" / "manifest.json").is_file()
    again = program("export", tmp_path / "none.pt", "--repository", tmp_path / "models", "--json")
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
from kanserve.cli import main
raise SystemExit(main.main([{command!r}, "--help"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"run {sys.executable} -m pip install -e '.[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_with_json_is_one_document() -> None:
    done = program("models", "--url", "127.0.0.1:1", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {
        "error": {
            "kind": "Unreachable",
            "code": "server-unreachable",
            "message": "no server at 127.0.0.1:1",
            "hint": "start a server with `kanserve serve REPOSITORY`, or pass another address with --url HOST:PORT",
            "exit_code": 1,
        }
    }
    first, second = done.stderr.splitlines()
    assert first == "kanserve models: error[server-unreachable]: no server at 127.0.0.1:1"
    assert second.startswith("  help: start a server with")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("frobnicate",), "UsageError", "unknown command 'frobnicate'"),
        (("infer",), "UsageError", "missing argument: NAME, --input"),
        (("infer", "tiny", "--timeout", "never"), "UsageError", "--timeout: invalid value 'never', expected"),
        (("serve", "nowhere"), "ConfigError", "nowhere is not a folder"),
        (("serve", ".", "--device", "tpu"), "UsageError", "invalid choice 'tpu', expected one of cpu, cuda"),
        (("edges", "tiny", "--input", "none.npy"), "InputError", "none.npy cannot be read"),
        (("models", "no/folder"), "InputError", "no/folder is not a folder"),
        (("models", "--load"), "CommandError", "--load needs a REPOSITORY"),
        (("export", "none.pt"), "CheckpointError", "none.pt does not exist"),
        (("completion", "tcsh"), "UsageError", "invalid choice 'tcsh'"),
    ],
)
def test_every_command_fails_with_the_same_document(arguments: tuple[str, ...], kind: str, message: str) -> None:
    done = kanserve(*arguments, "--json")
    error = json.loads(done.stdout)["error"]
    assert set(error) == {"kind", "code", "message", "hint", "exit_code"}
    assert (done.returncode, error["exit_code"], error["kind"]) == (2, 2, kind)
    assert message in error["message"]
    program = f"kanserve {arguments[0]}" if arguments[0] in main.COMMANDS else "kanserve"
    assert f"{program}: error[{error['code']}]: {error['message']}\n" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("modles",), "did you mean 'models'?"),
        (("xyz",), f"commands: {', '.join(main.COMMANDS)}"),
        (("infer", "tiny", "--inptu", "rows.npy"), "--inptu: did you mean --input?"),
        (("infer", "tiny", "--input", "r.npy", "--outptu=y.npz"), "--outptu: did you mean --output?"),
        (("serve", ".", "--grpc_port", "1"), "--grpc_port: did you mean --grpc-port?"),
        (("serve", ".", "--log-level", "inof"), "did you mean 'info'?"),
        (("export", "net.pt", "--dtype", "flaot64"), "did you mean 'float64'?"),
        (("completion", "fsih"), "did you mean 'fish'?"),
        (("completion", "tcsh"), "choices: bash, zsh, fish"),
        (("edges", "tiny", "--input", "r.npy", "--zzz"), "run `kanserve edges --help` for the arguments"),
    ],
)
def test_a_misspelt_word_is_helped(arguments: tuple[str, ...], hint: str) -> None:
    done = kanserve(*arguments, "--json")
    assert (done.returncode, json.loads(done.stdout)["error"]["hint"]) == (2, hint)
    assert f"\n  help: {hint}\n" in done.stderr


def test_the_exit_codes_stand_where_they_are_looked_for() -> None:
    table = console.EXIT_CODES
    assert [int(line.split()[0]) for line in table.splitlines()[1:]] == sorted(int(code) for code in console.Exit)
    for arguments in (("--help",), ("export", "--help")):
        assert table in kanserve(*arguments).stdout
    assert (watchdog.EXIT_STUCK, app.EXIT_TERMINATED) == (console.Exit.HUNG, console.Exit.TERMINATED)
    text = kanserve("serve", "--help").stdout
    assert {0, 1, 2, 70, 130, 143} == {
        int(code) for code in re.findall(r"^  (\d+) ", text.partition("exit codes:")[2], re.M)
    }


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_the_examples_of_a_command_parse(name: str) -> None:
    text = kanserve(name, "--help").stdout
    lines = re.findall(rf"^  (?:.*\| )?kanserve {name}( .*|)$", text.partition("examples:")[2], re.MULTILINE)
    assert lines
    parser = main.every_parser()[name]
    for line in lines:
        words = shlex.split(re.split(r"  +| > ", line)[0])
        assert isinstance(parser.parse_args(words), argparse.Namespace)


def test_the_commands_are_grouped_by_task() -> None:
    text = kanserve("--help").stdout
    order = ("Export:", "export  ", "Serve:", " serve  ", "Query and explain:", " infer ", "Operate:", "health")
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert text.partition("examples:")[2].partition("exit codes:")[0].count("  kanserve ") == 3


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
    # A suite in the background ignores SIGINT, and so do the processes that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _interrupt()
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt() -> None:
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
        done = program("models", "--url", url, "--timeout", "1")
    assert done.returncode == 1
    assert time.monotonic() - began < 60
    assert "within 1 s" in done.stderr or "no server" in done.stderr


@pytest.mark.parametrize("command", ["infer", "edges"])
def test_a_missing_input_is_wrong_whether_a_server_answers_or_not(command: str, tmp_path: Path) -> None:
    done = kanserve(command, "any", "--input", str(tmp_path / "rows.npy"), "--url", "127.0.0.1:1")
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
