"""Token file changes under a running server: an invalid file prevents a start but does not stop a running server."""

import signal
from pathlib import Path

import grpc
import pytest

from kanserve.auth import token_file
from kanserve.auth.permissions import Role
from tests.kanserve.config.test_reload import Configured, configured
from tests.support import credentials, toy_model
from tests.support.command_line import kanserve
from tests.support.server_process import INFERENCE, Server, serving
from tests.support.tiers import full
from tests.support.wait import until
from tools.reliability.row_31_tls_rotation import Files

REFUSED = 'kanserve_credential_reload_failed{credential="tokens"} '
RENEWED = 'kanserve_credential_reloads_total{credential="tokens"} '


def may(server: Server, token: str) -> bool:
    return accepted(server.channel, token)


def accepted(channel: grpc.Channel, token: str) -> bool:
    try:
        channel.unary_unary(f"{INFERENCE}ServerMetadata")(b"", timeout=60, metadata=credentials.bearer(token))
    except grpc.RpcError as error:
        return bool(error.code() is not grpc.StatusCode.UNAUTHENTICATED)
    return True


def test_tokens_come_and_go_while_the_server_runs(tmp_path: Path) -> None:
    toy_model.write(tmp_path / "models")
    path = tmp_path / "tokens.toml"
    first = token_file.new(path, "first", [Role.READ])
    with serving(tmp_path / "models", tokens=str(path), credential_poll_seconds=0.05) as server:
        assert may(server, first)
        second = token_file.new(path, "second", [Role.READ])
        until(lambda: may(server, second))
        good = path.read_text()
        for broken, says in (
            ("", "has no callers"),
            (good + good, "twice"),
            (good.replace("read", "rule"), "unknown role"),
        ):
            path.write_text(broken)
            until(lambda: f"{REFUSED}1.0" in server.metrics())
            until(lambda expected=says: expected in refusals(server)[-1]["reason"])
            assert may(server, first)
            assert may(server, second)
        path.chmod(0o644)
        until(lambda: "open to all users" in refusals(server)[-1]["reason"])
        path.unlink()
        until(lambda: "cannot be read" in refusals(server)[-1]["reason"])
        assert may(server, first)
        credentials.save_tokens(path, good)
        token_file.revoke(path, "first")
        until(lambda: not may(server, first))
        assert may(server, second)
        until(lambda: f"{REFUSED}0.0" in server.metrics())
        assert float(server.metrics().partition(f"\n{RENEWED}")[2].partition("\n")[0]) >= 2
        assert len(refusals(server)) >= 5
        log = server.log.read_text()
    assert not any(secret in log for secret in (first, second, token_file.digest(first), token_file.digest(second)))


@full("rare")
def test_a_change_of_the_file_is_seen_long_before_it_is_read_anyway(tmp_path: Path) -> None:
    """The server sees a change of time or size within a twentieth of `credential_poll_seconds`."""
    toy_model.write(tmp_path / "models")
    path = tmp_path / "tokens.toml"
    first, _ = (token_file.new(path, name, [Role.READ]) for name in ("first", "second"))
    with serving(tmp_path / "models", tokens=str(path), credential_poll_seconds=60) as server:
        assert may(server, first)
        token_file.revoke(path, "first")
        until(lambda: not may(server, first))


def refusals(server: Server) -> list[dict[str, str]]:
    lines = [line for line in server.lines() if line["event"] == "credential_reload_failed"]
    return lines or [{"reason": ""}]


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (credentials.block("a", "x" * 50, "infer"), 0o644, "is open to all users of this machine"),
        (None, 0o600, "cannot be read: No such file"),
        ("[[certificate]]\nname = 'a'\nsan = 'b'\nroles = ['read']\n", 0o600, "tls_client_ca is not set"),
    ],
)
def test_the_start_is_refused_in_one_line(tmp_path: Path, text: str | None, mode: int, says: str) -> None:
    toy_model.write(tmp_path / "models")
    path = tmp_path / "t"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    done = kanserve("serve", tmp_path / "models", "--tokens", path, "--grpc-port", "0", "--metrics-port", "0")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if says in line]
    assert "error" in line
    assert "Traceback" not in done.stderr


@full("combination")
def test_a_signal_has_every_worker_look(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    first = token_file.new(path, "first", [Role.READ])
    with configured(tmp_path, "--workers", "2", "--tokens", str(path), "--credential-poll-seconds", "3600") as server:
        second = token_file.new(path, "second", [Role.READ])
        assert not served(server, second)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: len(server.lines("token_file_loaded")) == 4)  # both, at the start and now
        assert all(served(server, token) for token in (first, second) for _ in range(8))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0


def served(server: Configured, token: str) -> bool:
    """On a new connection, which any worker may accept."""
    with grpc.insecure_channel(server.addresses["grpc"], [("grpc.use_local_subchannel_pool", 1)]) as channel:
        return accepted(channel, token)


@full("combination")
def test_both_ports_of_every_worker_show_what_is_new(tmp_path: Path) -> None:
    toy_model.write(tmp_path / "models")
    files = Files(tmp_path)
    pair = {"tls_cert": str(tmp_path / "server.pem"), "tls_key": str(tmp_path / "server.key")}
    several = {"workers": 2, "threads": 2, "http_port": 0, "credential_poll_seconds": 0.05}
    with serving(tmp_path / "models", transport="grpcio", **several, **pair) as server:
        ports = (server.port, int(server.http.rpartition(":")[2]))
        new = files.rotate()
        until(lambda: all(files.shown(port) == new for port in ports for _ in range(6)))
