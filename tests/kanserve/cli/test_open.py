"""`kanserve open` and `kanserve view`: the web UI's address, and the page at that address."""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from kanserve.cli import session
from tests.support import forked_process
from tests.support.command_line import CLEAN, COMMAND, Server, document, kanserve, program, serving, wrong_refusals
from tests.support.tiers import full


def test_addresses() -> None:
    address = session.ui_address
    assert address("127.0.0.1:8001", "digits") == "http://127.0.0.1:8001/ui/digits"
    assert address("grpcs://kan.example:443") == "https://kan.example:443/ui/"
    assert address("a:1", "a b/c", "edge", "0", secure=True) == "https://a:1/ui/a%20b%2Fc/edge/0"
    assert address("a:1", "m", version="2") == "http://a:1/ui/m?version=2"


def test_the_address_of_a_model(server: Server) -> None:
    requested = ("open", "tiny", "0:1:2")
    reported = server.ask(*requested, "--no-browser")
    assert reported == {"address": f"http://{server.url}/ui/tiny/edge/0/1/2", "opened": False}
    with urllib.request.urlopen(reported["address"], timeout=60) as response:
        assert b"<title>kanserve</title>" in response.read()
    done = kanserve(*requested, "--url", server.url)  # the tests have no screen
    assert (done.returncode, done.stdout) == (0, reported["address"] + "\n")
    assert "open the address in a browser" in done.stderr


def test_it_opens_the_browser_that_there_is_on_a_model_that_there_is(server: Server, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    reported = document(program("open", "tiny", "--url", server.url, "--json", BROWSER=str(browser)))
    assert reported["opened"] is True
    assert (tmp_path / "opened").read_text().strip() == reported["address"]
    assert wrong_refusals({"open tinny": "did you mean 'tiny'"}, "--url", server.url) == []
    assert wrong_refusals({f"view {tmp_path / 'none'}": "none"}) == []


@full("second transport")
def test_a_server_without_a_web_ui_is_named(repository: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "log", "--transport", "grpcio", "--http-port", "0") as other:
        cases = {"open tiny --no-browser": ("no web UI at", "pass --page HOST:PORT")}
        assert wrong_refusals(cases, "--url", other.url, code=1) == []


def test_a_repository_is_looked_into_and_left_alone(repository: Path) -> None:
    before = sorted(repository.rglob("*"))
    command = [*COMMAND, "view", str(repository), "--json"]
    with forked_process.popen(command, stdout=subprocess.PIPE, text=True, env=CLEAN) as process:
        try:
            assert process.stdout is not None
            where = json.loads(process.stdout.readline())["address"]
            with urllib.request.urlopen(where, timeout=60) as response:
                assert b"<title>kanserve</title>" in response.read()
            assert where.startswith("http://127.0.0.1:")
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(where, timeout=60)
    assert sorted(repository.rglob("*")) == before
