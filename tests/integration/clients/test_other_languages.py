"""Clients in other languages: the commands of docs/guides/clients/other-languages.md compile and run the programs of
examples/clients/ against servers with TLS and tokens. `make clients-test` installs their tools."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from kanserve import Client
from tests.support import credentials
from tests.support.command_line import exported
from tests.support.server_process import SHARED, Server, serving
from tests.support.tiers import full
from tools.stack_test import CLIENTS, DEBIAN, GO_SOURCES, MAVEN, present

pytestmark = full("peer")

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "guides" / "clients" / "other-languages.md").read_text()
CACHE = ROOT / ".clients"  # of `make clients-test`
ROW = np.array([[0.5, -0.5]], np.float32)
MODULE = "example.com/kanserve-client"
# Maven takes all packages from Debian.
SETTINGS = """<settings>
  <localRepository>{cache}</localRepository>
  <mirrors><mirror><id>debian</id><mirrorOf>*</mirrorOf><url>file://{packages}</url></mirror></mirrors>
</settings>
"""
# Debian's Netty looks for OpenSSL's library by another name than the package gives it.
TLS_LIBRARY = "libnetty-tcnative.so"


class Desk(NamedTuple):
    """A checkout with the protos and the programs, the files of the server, variables of the languages' tools, and the
    languages whose program is compiled."""

    folder: Path
    environment: dict[str, str]
    compiled: set[str]

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        """The result of commands of the page. A compiler without a cache takes minutes."""
        script = f'set -e\nkanserve() {{ {sys.executable} -m kanserve "$@"; }}\n{commands}'
        return subprocess.run(
            ["bash", "-c", script], cwd=self.folder, env=self.environment, text=True, capture_output=True, timeout=600
        )

    def printed(self, commands: str) -> dict[str, list[float]]:
        """The numbers that a program prints, by name. Raises AssertionError with the output of a command that fails."""
        done = self.run(commands)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return numbers(done.stdout)


def blocks(heading: str, kind: str = "console") -> list[str]:
    """The blocks of this kind below a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [re.sub(r"(?m)^ +", "", text) for text in re.findall(rf"(?s)```{kind}\n(.*?)```", section)]


def numbers(text: str) -> dict[str, list[float]]:
    """The lines `NAME NUMBER` of a program, by name."""
    rows: dict[str, list[float]] = {}
    for name, value in (line.split() for line in text.splitlines()):
        rows.setdefault(name, []).append(float(value))
    return rows


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "proto").symlink_to(ROOT / "proto")
    leave = shutil.ignore_patterns("stubs", "target", "node_modules", "client", "package-lock.json")
    shutil.copytree(ROOT / "examples" / "clients", folder / "examples" / "clients", ignore=leave)
    paths = folder / "go" / "src" / MODULE
    paths.parent.mkdir(parents=True)
    paths.symlink_to(folder / "examples" / "clients" / "go")
    (folder / "settings.xml").write_text(SETTINGS.format(cache=CACHE / "maven", packages=MAVEN))
    variables = {
        "MAVEN_ARGS": f"-U -s {folder / 'settings.xml'}",
        "MAVEN_OPTS": f"-Djava.library.path={folder} -Xbootclasspath/a:{MAVEN}/../java/netty-tcnative.jar",
        "GO111MODULE": "off",
        "GOPATH": f"{folder / 'go'}:{Path(GO_SOURCES).parent}",
        "GOCACHE": str(CACHE / "go"),
        "npm_config_cache": str(CACHE / "npm"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "service")]),
    }
    created = Desk(folder, os.environ | variables, set())
    files = created.run(blocks("Start a server")[0])
    assert files.returncode == 0, files.stderr
    return created


@pytest.fixture(scope="module", params=list(CLIENTS))
def command(desk: Desk, request: pytest.FixtureRequest) -> str:
    """The command of the page that runs a program. The program is compiled."""
    absent = [name for name in CLIENTS[request.param] if not present(name)]
    if absent or not CACHE.is_dir():
        names = ", ".join(DEBIAN.get(name, name) for name in absent) or "the folder of its packages"
        pytest.skip(f"{request.param} needs {names}: `make clients-test` installs it")
    build, command = blocks(request.param)
    if request.param not in desk.compiled:
        if request.param == "Java":
            (library,) = Path("/usr/lib").glob(f"*/jni/{TLS_LIBRARY}")
            shutil.copy(library, desk.folder / TLS_LIBRARY.replace("-", "_"))
        done = desk.run(build.replace("go -C examples/clients/go mod tidy\n", ""))  # the modules are Debian's
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        desk.compiled.add(request.param)
    return command


def started(desk: Desk, transport: str, rate: str = "") -> Iterator[Server]:
    """A server with the files of the page. `rate`: a limit for the token, as its line in the token file."""
    if transport == "asgi":
        pytest.importorskip("h2corn")
    tokens = desk.folder / f"tokens-{transport}{'-limited' if rate else ''}.toml"
    credentials.save_tokens(tokens, f"{(desk.folder / 'tokens.toml').read_text()}{rate}\n")
    models = exported(ROOT / "tests" / "golden" / "checkpoints" / "pykan-hello-adapted" / "model", "hello")
    tls = {"tls_cert": str(desk.folder / "tls.crt"), "tls_key": str(desk.folder / "tls.key")}
    with serving(models, transport=transport, tokens=str(tokens), **tls) as server:
        yield server


@pytest.fixture(scope="module", params=SHARED)
def server(desk: Desk, request: pytest.FixtureRequest) -> Iterator[Server]:
    yield from started(desk, request.param)


@pytest.fixture(scope="module", params=SHARED)
def limited(desk: Desk, request: pytest.FixtureRequest) -> Iterator[Server]:
    """The token has one call in four seconds."""
    yield from started(desk, request.param, "rate = 0.25")


def at(command: str, port: int) -> str:
    """The command with the port of a server of this test."""
    assert "localhost:8001" in command
    return command.replace("localhost:8001", f"localhost:{port}")


def test_a_program_prints_the_output_and_contributions_of_python(desk: Desk, command: str, server: Server) -> None:
    token = (desk.folder / "client.token").read_text().strip()
    with Client(f"grpcs://localhost:{server.port}", ca=desk.folder / "tls.crt", token=token) as client:
        output = client.infer("hello", ROW).outputs["y"]
        explained = client.explain("hello", ROW)
    printed = desk.printed(at(command, server.port))
    assert np.array_equal(np.float32(printed["output"]), output[0])
    assert printed["base"] == explained.base.tolist()
    assert printed["contribution"] == explained.contributions[0, :, 0].tolist()
    total = sum(printed["base"] + printed["contribution"])
    assert abs(total - printed["output"][0]) <= float(explained.completeness_error[0, 0]) + 1e-6
    (shown,) = blocks("Tensors", "text")
    assert {name: pytest.approx(values, rel=1e-5) for name, values in numbers(shown).items()} == printed


def test_a_program_waits_for_a_rate_limit_and_succeeds(desk: Desk, command: str, limited: Server) -> None:
    before = len(limited.lines())
    assert set(desk.printed(at(command, limited.port))) == {"output", "base", "contribution"}
    rejected = [line for line in limited.lines()[before:] if line.get("error_code") == "rate-limited"]
    assert 1 <= len(rejected) <= 2  # Explain, and ModelInfer if another program has just run


def test_a_program_ends_at_its_deadline_if_the_server_sends_nothing(desk: Desk, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts the connection, and no process reads it
        done = desk.run(at(command, silent.getsockname()[1]))
    assert done.returncode != 0
    assert "deadline" in (done.stdout + done.stderr).lower()
