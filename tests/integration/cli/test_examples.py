"""Examples of `kanserve COMMAND --help`: each runs as written, from the root of the repository."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kanserve.cli import main
from tests.support import command_line
from tests.support.command_line import CLEAN, COMMAND, exported, program, serving
from tests.support.golden_cases import OWN
from tests.support.tiers import full

pytestmark = full("document")

ROOT = Path(__file__).parents[3]
FAILS = {"doctor": 1, "plan": 1}  # the exit code if the host has a problem: a port in use, cores that others use
# The goal of a plan is loose: other tests use the cores too.
# A line that another one continues runs with that one.
MEASURED = ("bench", "plan")
# These commands export a checkpoint themselves. Here they take the same model from the desk: a guide has such a line.
OWN_EXPORT = ("bench", "formula")
EXPORTED = {"pykan-hello-symbolic": "symbolic", "pykan-hello-adapted": "hello"}
SHORTER = {"bench": " --rounds 1 --batch 1", "plan": " --seconds 1 --p99 5s"}
# The examples of `export` use files of the user.
COMMANDS = [name for name in main.COMMANDS if name not in ("export", "serve", "view")]


@dataclass(frozen=True, slots=True)
class Desk:
    """A folder with the paths of the repository, and the environment of a user with a running server."""

    folder: Path
    environment: dict[str, str]
    url: str

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", re.sub(r"(10\.0\.0\.\d|127\.0\.0\.1|kanserve\.models\.svc):8001", self.url, line)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    for name in ("tests", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "firmware").mkdir()
    shutil.copy(ROOT / "tests/golden/wasm/pykan-hello-adapted.wasm", folder / "firmware/hello.wasm")
    certified = ("--certify", "--certify-budget", "1s")
    exported(OWN / "pykan-hello-adapted" / "model", "hello", *certified, into=folder / "models")
    exported(OWN / "pykan-hello-symbolic" / "model", "symbolic", into=folder / "models")
    exported(OWN / "efficient-kan-digits" / "model.pt", "digits", into=folder / "models")
    assert program("copy", "digits", "1", "2", cwd=folder).returncode == 0
    with (
        serving(folder / "models", folder / "log", "--repository-poll-seconds", "0.1") as server,
        command_line.on_path(server.url) as path,
    ):
        environment = {**CLEAN, "PATH": path, "HOME": str(folder), "KANSERVE_URL": server.url}
        yield Desk(folder, environment, server.url)


def examples(name: str) -> list[str]:
    """The lines of the help text, without a comment for the reader that the shell would ignore too."""
    text = main.every_parser()[name].epilog or ""
    return [line.strip() for line in text.partition("examples:\n")[2].partition("\n\n")[0].splitlines()]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_run(desk: Desk, name: str) -> None:
    lines = examples(name)
    assert any(re.match(rf"(.*\| )?kanserve {name}\b", line) for line in lines)
    if name in ("drift", "importance", "stats"):
        assert desk.run("kanserve infer digits --input examples/digits.csv").returncode == 0
    if name == "copy":
        shutil.rmtree(desk.folder / "models" / "digits" / "2")
    if name in MEASURED:
        lines = [line for line in lines if not any(other.startswith(f"{line} ") for other in lines)]
    if name in OWN_EXPORT:
        lines = [
            re.sub(r"tests/golden/checkpoints/(\S+)/model\b", lambda path: EXPORTED[path[1]], line) for line in lines
        ]
    lines = [line for line in lines if "--waves" not in line]  # it waits for traffic; test_rollout.py runs it
    for line in lines:
        done = desk.run(re.sub(r"\s*#.*", "", line) + SHORTER.get(name, ""))
        assert done.returncode in (0, FAILS.get(name, 0)), f"{line}: {done.stderr}"
        assert done.stdout or done.stderr or " > " in line or name == "copy", line


def test_the_examples_of_serve_are_valid(desk: Desk) -> None:
    for line in examples("serve"):
        done = desk.run(re.sub(r"\s*#.*", "", line) + " --show-config")
        assert done.returncode == 0, f"{line}: {done.stderr}"


@pytest.mark.parametrize("line", examples("view"))
def test_the_examples_of_view_run(desk: Desk, line: str) -> None:
    pytest.importorskip("h2corn")
    command, log = [*COMMAND, *line.split()[1:]], desk.folder / "view.log"
    here = {"cwd": desk.folder, "env": desk.environment}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, **here) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("http://127.0.0.1:"), log.read_text()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, log.read_text()
        finally:
            process.kill()
