"""Common behavior of commands: help, exit codes, streams, interruptions."""

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kanexport.shared.cli import console
from kanserve.cli import main
from kanserve.server import app, watchdog
from tests.support import forked_process
from tests.support.command_line import CLEAN, COMMAND, Server, kanserve, program, wrong_refusals


def test_help_loads_no_library() -> None:
    code = """
import sys
before = set(sys.modules)
from kanserve.cli import main
try:
    main.main(["--help"])
except SystemExit:
    pass
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(loaded - sys.stdlib_module_names), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "['kanexport', 'kanserve']"
    assert all(name in done.stdout for name in main.COMMANDS)


def test_every_command_has_help_with_json_and_examples_that_parse() -> None:
    parsers = main.every_parser()
    for name in main.COMMANDS:
        done = kanserve(name, "--help")
        assert (done.returncode, "--json" in done.stdout) == (0, True), name
        examples = done.stdout.partition("examples:")[2]
        lines = re.findall(rf"^  (?:.*\| )?kanserve {name}( .*|)$", examples, re.MULTILINE)
        assert lines, name
        for line in lines:
            words = shlex.split(re.split(r"  +| > ", line)[0])
            assert isinstance(parsers[name].parse_args(words), argparse.Namespace)


def test_a_wrong_command_exits_2_and_shows_its_usage() -> None:
    cases = dict.fromkeys(("", "frobnicate", "infer", "infer tiny --nonsense"), "usage:")
    assert wrong_refusals(cases) == []
    done = program("infer")
    assert (done.returncode, done.stdout, "usage:" in done.stderr) == (2, "", True)
    assert program("--version").stdout.startswith("kanserve 0.")


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


# The words of a command -> the kind of its error, and text of its message or its whole hint.
FAILURES = {
    "frobnicate": ("UsageError", "unknown command 'frobnicate'"),
    "infer": ("UsageError", "missing argument: NAME, --input"),
    "infer tiny --timeout never": ("UsageError", "--timeout: invalid value 'never', expected"),
    "serve nowhere": ("ConfigError", "nowhere is not a folder"),
    "serve . --grpc-port many": ("ConfigError", "grpc_port = many (from flag)"),
    "serve . --grpc 1": ("UsageError", "unknown argument: --grpc"),
    "serve . --device tpu": ("UsageError", "invalid choice 'tpu', expected one of cpu, cuda"),
    "infer any --input none.npy": ("InputError", "none.npy cannot be read"),
    "edges tiny --input none.npy": ("InputError", "none.npy cannot be read"),
    "models no/folder": ("InputError", "no/folder is not a folder"),
    "models --url 127.0.0.1:1": ("Unreachable", "start a server with `kanserve serve REPOSITORY`"),
    "models --load": ("CommandError", "--load needs a REPOSITORY"),
    "export none.pt": ("CheckpointError", "none.pt does not exist"),
    "completion tcsh": ("UsageError", "choices: bash, zsh, fish"),
    "modles": ("UsageError", "did you mean 'models'?"),
    "scores digits": ("UsageError", "did you mean 'importance'?"),
    "xyz": ("UsageError", f"commands: {', '.join(main.COMMANDS)}"),
    "infer tiny --inptu rows.npy": ("UsageError", "--inptu: did you mean --input?"),
    "infer tiny --input r.npy --outptu=y.npz": ("UsageError", "--outptu: did you mean --output?"),
    "serve . --grpc_port 1": ("UsageError", "--grpc_port: did you mean --grpc-port?"),
    "serve . --port 1": ("UsageError", "--port: did you mean --grpc-port?"),
    "serve . --log-level inof": ("UsageError", "did you mean 'info'?"),
    "export net.pt --dtype flaot64": ("UsageError", "did you mean 'float64'?"),
    "completion fsih": ("UsageError", "did you mean 'fish'?"),
    "edges tiny --input r.npy --zzz": ("UsageError", "run `kanserve edges --help` for the arguments"),
}


@pytest.mark.parametrize("words", FAILURES)
def test_every_command_fails_with_the_same_document(words: str) -> None:
    kind, text = FAILURES[words]
    done = kanserve(*words.split(), "--json")
    error = json.loads(done.stdout)["error"]
    assert set(error) == {"kind", "code", "message", "hint", "exit_code"}
    code = 1 if kind == "Unreachable" else 2
    assert (done.returncode, error["exit_code"], error["kind"]) == (code, code, kind)
    assert text in error["message"] or text in error["hint"]
    name = words.split()[0]
    command = f"kanserve {name}" if name in main.COMMANDS else "kanserve"
    assert f"{command}: error[{error['code']}]: {error['message']}\n" in done.stderr
    assert not error["hint"] or f"\n  help: {error['hint']}\n" in done.stderr


def test_help_has_exit_codes_and_the_commands_by_task() -> None:
    table = console.EXIT_CODES
    assert [int(line.split()[0]) for line in table.splitlines()[1:]] == sorted(int(code) for code in console.Exit)
    for arguments in (("--help",), ("export", "--help")):
        assert table in kanserve(*arguments).stdout
    assert (watchdog.EXIT_STUCK, app.EXIT_TERMINATED) == (console.Exit.HUNG, console.Exit.TERMINATED)
    text = kanserve("serve", "--help").stdout.partition("exit codes:")[2]
    assert [int(code) for code in re.findall(r"^  (\d+) ", text, re.M)] == [0, 1, 2, 70, 130, 143]
    text = kanserve("--help").stdout
    order = ("Export:", "export  ", "Serve:", " serve  ", "Query and explain:", " infer ", "Operate:", "health")
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert text.partition("examples:")[2].partition("exit codes:")[0].count("  kanserve ") == 3


def test_a_reader_that_leaves_is_no_crash(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((20000, 3), np.float32))
    command = [*COMMAND, "infer", "tiny", "--input", str(tmp_path / "rows.npy"), "--url", server.url]
    with forked_process.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 1
        assert process.stderr.read() == b""


def test_an_interruption_is_130_and_silent() -> None:
    # A listener that never responds: the command waits for its deadline.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        command = [*COMMAND, "models", "--url", url, "--timeout", "300"]
        with forked_process.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=CLEAN) as process:
            connection, _ = listener.accept()
            with connection:
                os.kill(process.pid, signal.SIGINT)
                out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in errors


def test_a_deadline_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"127.0.0.1:{listener.getsockname()[1]}"
        done = kanserve("models", "--url", url, "--timeout", "0.2")
    assert done.returncode == 1
    assert "within 0.2 s" in done.stderr or "no server" in done.stderr
