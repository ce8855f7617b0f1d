"""`kanserve serve`: settings and their sources, rejected settings, and exit behavior."""

import json
import signal
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from kanserve.config import settings
from kanserve.config.settings import FlagForm, Settings
from kanserve.observability import log_events
from tests.support import attacks
from tests.support.command_line import CLEAN, document, kanserve, serving
from tests.support.tiers import full


def test_every_source_has_its_rank_and_its_name(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "kanserve.toml"
    file.write_text('threads = 1\nmax_edge_query_rows = 7\nlog_level = "error"\nmax_request_bytes = "2MiB"\n')
    arguments = ("serve", repository, "--config", file, "--show-config", "--log-level", "debug", "--reflection")
    shown = document(kanserve(*arguments, "--json", KANSERVE_MAX_EDGE_QUERY_ROWS="9", KANSERVE_LOG_LEVEL="info"))
    assert shown["log_level"] == {"value": "debug", "origin": "flag"}
    assert shown["reflection"] == {"value": True, "origin": "flag"}
    assert shown["max_edge_query_rows"] == {"value": 9, "origin": "environment"}
    assert shown["threads"] == {"value": 1, "origin": str(file)}
    assert shown["max_request_bytes"] == {"value": 2 * 2**20, "origin": str(file)}
    assert shown["grpc_port"] == {"value": 8001, "origin": "default"}
    table = kanserve(*arguments)
    assert table.returncode == 0
    assert any("threads" in line and str(file) in line for line in table.stdout.splitlines())


def test_a_flag_accepts_each_value_of_its_setting(repository: Path) -> None:
    """Only a setting with an enumeration rejects others as a choice; that of a pattern has other words too."""
    for name, field in Settings.model_fields.items():
        if "|" in (metavar := settings.flags().get(name, FlagForm("", "")).metavar):
            choices = typing.get_args(field.annotation)
            done = kanserve("serve", repository, f"--{name.replace('_', '-')}", "toy", "--show-config")
            assert (done.returncode == 0) == (not choices), f"{name}: {done.stderr}"
            assert not choices or metavar == "|".join(choices)


@full("second transport")
def test_no_peer_writes_into_the_log(repository: Path, tmp_path: Path) -> None:
    """gRPC core would, with the text of a GOAWAY."""
    with serving(repository, tmp_path / "log", "--transport", "grpcio") as running:
        goaway = attacks.frame(attacks.GOAWAY, 0, 0, bytes(7) + b"\x07\xfbforged\n")
        with attacks.connect(int(running.url.rpartition(":")[2])) as peer:
            peer.sendall(goaway + attacks.frame(attacks.PING, 0, 0, b"12345678"))
            result = b""
            while b"12345678" not in result:
                result += peer.recv(65536)
    assert b"forged" not in (tmp_path / "log").read_bytes()


def test_the_log_begins_before_what_takes_seconds(repository: Path) -> None:
    """The server logs before it imports the runtime, before it loads models, and then every few seconds."""
    code = (
        "import sys; from kanserve.cli import main, serve\n"
        "assert not {'onnxruntime', 'grpc', 'numpy'} & set(sys.modules)\n"
        "import kanserve.models.events as events; events.EVERY = 0.02\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    supplied = ("serve", str(repository), "--grpc-port", "0", "--metrics-port", "0", "--json", "--log-format", "json")
    command = [sys.executable, "-c", code, *supplied, "--drain-delay-seconds", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CLEAN) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline(), process.stderr.read()
        finally:
            process.terminate()
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    events = [line["event"] for line in lines]
    assert events[0] == "server_starting"
    assert (lines[0]["repository"], lines[0]["workers"]) == (str(repository), 1)
    steps = ("server_starting", "server_listening", "models_loading", "model_loaded", "server_ready")
    order = [events.index(item) for item in steps]
    assert order == sorted(order)
    (first,) = [line for line in lines if line["event"] == "models_loading"]
    more = [line for line in lines if line["event"] == "model_loading"]
    assert (first["versions"], first["message"]) == (1, log_events.EVENTS["models_loading"].message)
    assert more, "nothing was said while the version loaded"
    assert {(line["model"], line["version"], line["done"], line["of"]) for line in more} == {("tiny", 1, 0, 1)}


@pytest.mark.parametrize(
    ("number", "form"), [(signal.SIGTERM, "console"), pytest.param(signal.SIGINT, "json", marks=full("combination"))]
)
def test_a_signal_ends_it_with_0(number: signal.Signals, form: str, repository: Path, tmp_path: Path) -> None:
    with serving(repository, tmp_path / "log", "--log-format", form) as running:
        running.process.send_signal(number)
        assert running.process.wait(60) == 0
        assert running.process.stdout is not None
        assert running.process.stdout.read() == ""  # one document was printed at the start, nothing after
    lines = (tmp_path / "log").read_text().splitlines()
    if form == "json":
        assert json.loads(lines[-1])["event"] == "server_stopped"
    else:  # for people
        assert not lines[0].startswith("{")
        assert any(log_events.EVENTS["model_loaded"].message in line and "event=model_loaded" in line for line in lines)
        assert "event=server_stopped" in lines[-1]
