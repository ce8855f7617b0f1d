"""The tutorial docs/tutorials/pytorch-module.md: its files and commands in an empty folder."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kanserve import Client, Unreachable
from tests.support.programs import free_ports
from tests.support.tiers import full
from tests.support.wait import until

pytestmark = full("document")
pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorials" / "pytorch-module.md").read_text().replace("\\\n", " ")
FILES = dict(re.findall(r'^```py title="([^"]+)"\n(.*?)^```', PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = "".join(re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)).splitlines()
SECONDS = 300


def run(command: str, folder: Path, environment: dict[str, str]) -> str:
    """The output of a command of the page."""
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the files of the page, the trained weights and the exported model, and an environment."""
    folder = tmp_path_factory.mktemp("tutorial")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    ports = free_ports("KANSERVE_GRPC_PORT", "KANSERVE_METRICS_PORT")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **{name: str(port) for name, port in ports.items()}, "PATH": path, "COLUMNS": "200"}
    for command, words in zip(COMMANDS, ("python train.py", "kanserve export"), strict=False):
        assert command.startswith(words)
        run(command, folder, environment)
    return folder, environment


@pytest.fixture(scope="module")
def served(desk: tuple[Path, dict[str, str]]) -> Iterator[tuple[Path, dict[str, str]]]:
    folder, environment = desk
    assert COMMANDS[2].startswith("kanserve serve")
    with (
        subprocess.Popen(shlex.split(COMMANDS[2]), cwd=folder, env=environment, stderr=subprocess.DEVNULL) as server,
        Client(f"127.0.0.1:{environment['KANSERVE_GRPC_PORT']}") as client,
    ):
        try:
            until(client.ready, errors=(Unreachable,))
            yield folder, environment
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=SECONDS) == 0


def test_both_layers_of_the_module_have_edges(desk: tuple[Path, dict[str, str]]) -> None:
    folder, environment = desk
    assert list(FILES) == ["net.py", "train.py"]
    shown = run("kanserve models ./models net", folder, environment)
    assert "2 → 3 → 4 → 1" in shown
    assert re.search(r"0 +hidden +3 → 4 .*12 of 12", shown)
    assert re.search(r"1 +out +4 → 1 .*4 of 4", shown)


def test_the_other_commands_work_on_the_server(served: tuple[Path, dict[str, str]]) -> None:
    folder, environment = served
    outputs = {
        command.split()[1]: run(command, folder, environment)
        for command in COMMANDS[3:]
        if command.startswith("kanserve")
    }
    assert set(outputs) == {"models", "infer", "edges", "explain"}
    assert (folder / "predictions.csv").read_text().startswith("area\n")
    assert re.search(r"1:\d:0 \(out: \d → 0\)", outputs["edges"])
    for node in range(3):
        assert f"layer 0, node {node}" in outputs["explain"]
