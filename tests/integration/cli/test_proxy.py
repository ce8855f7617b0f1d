"""A proxy in the environment: no command sends it a call, and no process of a server its metrics."""

import contextlib
import os
import shlex
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kanserve import Client
from kanserve.cli import main
from kanserve.client.errors import ClientError
from tests.support import http_client, toy_model
from tests.support.command_line import Server, kanserve
from tests.support.server_process import serving

# The words of each command that calls a server. ROWS: a file of rows, OUT: a path for its output.
COMMANDS = {
    "certify": "tiny", "coverage": "tiny --input ROWS", "curves": "tiny", "doctor": "",
    "drift": "none --input ROWS", "edges": "tiny --input ROWS", "explain": "tiny --input ROWS --row 0",
    "formula": "tiny", "health": "", "infer": "tiny --input ROWS", "models": "", "open": "tiny --no-browser",
    "plan": "tiny --rate 50 --p99 1s --seconds 1", "plot": "tiny --output OUT.svg", "promote": "tiny 9",
    "report": "tiny --output OUT.html", "rollback": "none", "importance": "tiny", "shadow": "tiny", "stats": "tiny",
}  # fmt: skip
# Codes of the errors with which the server responds to some of them.
RESPONSES = {
    "certify": "certificate-missing", "drift": "model-unknown", "formula": "formula-edge-numeric",
    "promote": "version-unknown", "rollback": "model-unknown", "shadow": "shadow-not-running",
}  # fmt: skip


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """First bytes of each connection to a proxy that the environment names for everything. It responds with a page."""
    seen: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # of the listener, which the fixture has closed
            while True:
                peer, _ = listener.accept()
                with peer, contextlib.suppress(OSError):
                    seen.append(peer.recv(4096))
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nof_proxy 1")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
            for variable in (name, name.upper()):
                monkeypatch.setenv(variable, f"http://127.0.0.1:{listener.getsockname()[1]}")
        for variable in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
            monkeypatch.delenv(variable, raising=False)
        threading.Thread(target=serve, daemon=True).start()
        yield seen
        listener.shutdown(socket.SHUT_RDWR)


def test_no_command_sends_a_call_to_a_proxy(server: Server, passed: list[bytes], tmp_path: Path) -> None:
    calling = {name for name, parser in main.every_parser().items() if "--url" in parser.format_help()}
    assert calling == COMMANDS.keys()
    variables = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    environment = {**variables, "KANSERVE_TOKEN": "t" * 47}
    np.save(tmp_path / "rows.npy", np.zeros((3, 3), np.float32))
    places = {"ROWS": str(tmp_path / "rows.npy"), "OUT": str(tmp_path / "written")}
    failed = []
    for name, words in COMMANDS.items():
        for word, place in places.items():
            words = words.replace(word, place)
        done = kanserve(name, *shlex.split(words), "--url", server.url, **environment)
        ending = f"error[{RESPONSES[name]}]" in done.stderr if name in RESPONSES else done.returncode == 0
        if not ending or passed:
            failed.append((name, done.stderr, passed[:]))
    assert failed == []


def test_a_client_uses_a_proxy_for_tls_to_other_machines_only(passed: list[bytes]) -> None:
    for url in ("server.invalid:1", "grpcs://server.invalid:1", "grpcs://localhost:1", "localhost:1"):
        with Client(url, token="t" * 47, token_in_clear=True, retries=0) as client, pytest.raises(ClientError):
            client.health()
    assert {line.partition(b"\r\n")[0] for line in passed} == {b"CONNECT server.invalid:1 HTTP/1.1"}


def test_no_process_of_a_server_sends_its_metrics_to_a_proxy(passed: list[bytes], tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, workers=2, http_port=0) as running:
        page = http_client.ask(running, "/metrics").body.decode()
    assert ("kanserve_workers 2" in page, "of_proxy" in page, passed) == (True, False, [])
