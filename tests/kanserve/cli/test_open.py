"""`kanserve open` and `kanserve view`: the web UI's address, and the page at that address."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from kanserve.cli import session
from tests.support.command_line import CLEAN, COMMAND, Server, document, kanserve, serving

pytest.importorskip("h2corn")


@pytest.mark.parametrize(
    ("url", "path", "options", "expected"),
    [
        ("127.0.0.1:8001", ("digits",), {}, "http://127.0.0.1:8001/ui/digits"),
        ("grpcs://kan.example:443", (), {}, "https://kan.example:443/ui/"),
        ("a:1", ("a b/c", "edge", "0"), {"secure": True}, "https://a:1/ui/a%20b%2Fc/edge/0"),
        ("a:1", ("m",), {"version": "2"}, "http://a:1/ui/m?version=2"),
    ],
)
def test_addresses(url: str, path: tuple[str, ...], options: dict[str, object], expected: str) -> None:
    assert session.ui_address(url, *path, **options) == expected


def test_the_address_of_a_model(server: Server) -> None:
    requested = ("open", "tiny", "edge/0/1/2", "--url", server.url)
    reported = document(kanserve(*requested, "--json", "--no-browser"))
    assert reported == {"address": f"http://{server.url}/ui/tiny/edge/0/1/2", "opened": False}
    with urllib.request.urlopen(reported["address"], timeout=60) as answer:
        assert b"<title>kanserve</title>" in answer.read()
    done = kanserve(*requested)  # the tests have no screen
    assert (done.returncode, done.stdout) == (0, reported["address"] + "\n")
    assert "open the address in a browser" in done.stderr


def test_it_opens_the_browser_that_there_is(server: Server, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    done = subprocess.run(
        [*COMMAND, "open", "tiny", "--url", server.url, "--json"],
        env={**CLEAN, "BROWSER": str(browser)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    reported = json.loads(done.stdout)
    assert reported["opened"] is True
    assert (tmp_path / "opened").read_text().strip() == reported["address"]


def test_what_cannot_be_opened(server: Server, repository: Path, tmp_path: Path) -> None:
    done = kanserve("open", "tinny", "--url", server.url)
    assert done.returncode == 2
    assert "did you mean 'tiny'" in done.stderr
    with serving(repository, tmp_path / "log", "--transport", "grpcio", "--http-port", "0") as other:
        done = kanserve("open", "tiny", "--url", other.url, "--no-browser")
        assert done.returncode == 1
        assert "no web UI at" in done.stderr
        assert "pass --page HOST:PORT" in done.stderr


def test_a_repository_is_looked_into_and_left_alone(repository: Path) -> None:
    before = sorted(repository.rglob("*"))
    with subprocess.Popen(
        [*COMMAND, "view", str(repository), "--json"], stdout=subprocess.PIPE, text=True, env=CLEAN
    ) as process:
        try:
            assert process.stdout is not None
            where = json.loads(process.stdout.readline())["address"]
            with urllib.request.urlopen(where, timeout=60) as answer:
                assert b"<title>kanserve</title>" in answer.read()
            assert where.startswith("http://127.0.0.1:")
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(where, timeout=60)
    assert sorted(repository.rglob("*")) == before


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    done = kanserve("view", tmp_path / "none")
    assert done.returncode == 2
    assert "none" in done.stderr
