"""HAProxy's configuration, and a real HAProxy in front of real listeners where it is installed."""

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import kanserve.contrib.ray as kanserve_ray
from kanexport.shared.cli.suggest import MissingPackage
from kanserve.contrib.ray import FleetError, fleet, haproxy
from kanserve.contrib.ray.haproxy import Front, Haproxy
from tests.support.programs import free_port
from tests.support.tiers import full
from tests.support.wait import until


def lines(front: Front) -> list[str]:
    return [line.strip() for line in haproxy.configuration(front, "/run/admin").splitlines()]


def test_the_configuration_forwards_connections_to_slots_and_checks_servers() -> None:
    text = lines(Front("127.0.0.1", 8001, 5, connections=700, threads=2))
    assert "bind 127.0.0.1:8001" in text
    assert "server-template s 1-5 127.0.0.1:9 disabled" in text
    assert "mode tcp" in text
    assert "nbthread 2" in text
    assert text.count("maxconn 700") == 2
    assert "stats socket /run/admin mode 600 level admin" in text
    assert "http-check send meth GET uri /readyz ver HTTP/1.1 hdr host fleet" in text
    (tls,) = [line for line in lines(Front("::1", 8001, 1, tls=True)) if line.startswith("default-server check")]
    assert "check-ssl" in tls
    assert not [line for line in lines(Front("::1", 8001, 1, readiness=False)) if "httpchk" in line]
    assert "bind [::1]:8001" in lines(Front("::1", 8001, 1))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_clients_cannot_know_is_refused(port: int) -> None:
    with pytest.raises(FleetError, match=f"port is {port}") as caught:
        haproxy.configuration(Front("127.0.0.1", port, 1), "/run/admin")
    assert caught.value.code == "fleet-port-invalid"


def test_haproxy_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FleetError, match="HAProxy is not installed") as caught:
        haproxy.find_program()
    assert "[serve,ray]" in caught.value.hint


@pytest.fixture
def program() -> str:
    try:
        return haproxy.find_program()
    except FleetError:
        pytest.skip("HAProxy is not installed")


@full("peer")
def test_haproxy_accepts_the_configuration(program: str, tmp_path: Path) -> None:
    for front in (Front("127.0.0.1", 8001, 3), Front("::1", 8001, 65, tls=True), Front("::", 9, 1, readiness=False)):
        text = haproxy.configuration(front, str(tmp_path / "admin"))
        done = subprocess.run([program, "-c", "-f", "/dev/stdin"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr


@contextlib.contextmanager
def responding(name: bytes) -> Iterator[int]:
    """A listener that sends its name to each connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(name)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def reply(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        return connection.recv(10)


def test_slots_are_filled_and_emptied_without_a_reload(program: str) -> None:
    port = free_port()
    front = Haproxy(Front("127.0.0.1", port, 3, readiness=False, connections=100))
    try:
        with responding(b"one") as first, responding(b"two") as second:
            front.fill(1, "127.0.0.1", first)
            assert {reply(port) for _ in range(4)} == {b"one"}
            front.fill(3, "127.0.0.1", second)
            front.drain(1)
            assert {reply(port) for _ in range(4)} == {b"two"}
            front.fill(1, "127.0.0.1", first)
            front.empty(3)
            assert {reply(port) for _ in range(4)} == {b"one"}
            assert set(front.connections()) == {1, 2, 3}
    finally:
        front.stop(5)
    assert front.process.returncode == 0


def test_a_port_that_is_taken_is_named(program: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(FleetError, match=r"did not start on 127\.0\.0\.1:\d+: .*") as caught,
    ):
        Haproxy(Front("127.0.0.1", listener.getsockname()[1], 1, connections=100))
    assert caught.value.code == "haproxy-not-started"


def test_haproxy_ends_with_a_command_that_is_killed(program: str) -> None:
    """An orphan would keep the port, and get a part of the connections of the next fleet."""
    port = free_port()
    script = f"""
from kanserve.contrib.ray.haproxy import Front, Haproxy
print(Haproxy(Front("127.0.0.1", {port}, 1, readiness=False, connections=100)).process.pid, flush=True)
input()"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as command:
        assert command.stdout is not None
        assert int(command.stdout.readline()) > 0
        with pytest.raises(FleetError, match=rf"did not start on 127\.0\.0\.1:{port}"):
            Haproxy(Front("127.0.0.1", port, 1, connections=100))
        command.kill()

    def is_free() -> bool:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return True
        return False

    until(is_free)


def test_ray_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # its import fails
    assert fleet.main(["x"]) == 1
    error = capsys.readouterr().err
    assert (
        "error[package-not-installed]: kanserve.contrib.ray.fleet needs the Python package that provides 'ray'" in error
    )
    assert "pip install -e '.[serve,ray]' ./kernel" in error
    with pytest.raises(MissingPackage, match=r"kanserve\.contrib\.ray:build needs"):
        kanserve_ray.build({"repository": "models"})


class _Probed:
    """A server that is ready until it drains, and keeps other connections open."""

    def __init__(self) -> None:
        self.status = b"200 OK"
        self.probes = 0
        self._held: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self._listener.accept()[:1], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._held.append(connection)
        with contextlib.suppress(OSError):
            while data := connection.recv(1000):
                if data.startswith(b"GET /readyz"):
                    self.probes += 1
                    connection.sendall(b"HTTP/1.1 " + self.status + b"\r\nContent-Length: 0\r\n\r\n")
                    connection.close()
                    return
                connection.sendall(data)

    def close(self) -> None:
        for connection in (self._listener, *self._held):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


@full("peer")
def test_a_server_that_drains_keeps_its_connections(program: str) -> None:
    """Health checks of another server show that those of the first one have ended."""
    port = free_port()
    front = Haproxy(Front("127.0.0.1", port, 2, connections=100))
    with contextlib.ExitStack() as stack:
        stack.callback(front.stop, 60)
        server, other = (stack.enter_context(contextlib.closing(_Probed())) for _ in range(2))
        front.fill(1, "127.0.0.1", server.port)
        until(lambda: server.probes > 0)
        with socket.create_connection(("127.0.0.1", port), 60) as connection:
            connection.sendall(b"one")
            assert connection.recv(10) == b"one"
            front.drain(1)
            server.status = other.status = b"503 Service Unavailable"
            front.fill(2, "127.0.0.1", other.port)
            until(lambda: other.probes >= 5)  # three make a server fail
            connection.sendall(b"two")
            assert connection.recv(10) == b"two"
        server.status, seen = b"200 OK", server.probes
        front.fill(1, "127.0.0.1", server.port)
        until(lambda: server.probes > seen)
