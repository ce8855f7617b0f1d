"""Tests of `transport/metrics_server.py`."""

import socket
import struct
import urllib.request
import zlib
from pathlib import Path

import pytest

from tests.support import toy_model
from tests.support.server_process import Server, serving


def samples(text: str) -> dict[str, float]:
    """Series -> value, as they stand in the text."""
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_the_port_serves_get_and_nothing_else(server: Server) -> None:
    url = f"http://127.0.0.1:{server.metrics_port}"
    evil = {"Host": "evil.example:8002", "Accept-Language": "en"}
    for path, method, headers, status in (
        ("/", "GET", {}, 404),
        ("/metrics", "POST", {}, 501),
        ("/metrics", "DELETE", {}, 501),
        ("/metrics", "GET", evil, 403),
        ("/metrics", "HEAD", evil, 403),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(url + path, None, headers, method=method), timeout=60)
        assert caught.value.code == status
        assert "Python" not in str(caught.value.headers)
        assert caught.value.headers.get_all("X-Content-Type-Options") == ["nosniff"]
        caught.value.close()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/metrics", method="HEAD"), timeout=60) as head:
        assert head.read() == b""
        assert "version=0.0.4" in head.headers["Content-Type"]


@pytest.mark.parametrize(("accepted", "window"), [("gzip", 31), ("deflate", 15), ("br, gzip;q=0.5", 31)])
def test_the_page_is_packed_for_those_who_ask(server: Server, accepted: str, window: int) -> None:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    requested = urllib.request.Request(url, headers={"Accept-Encoding": accepted})
    with urllib.request.urlopen(requested, timeout=60) as response:
        assert set(samples(zlib.decompress(response.read(), window).decode())) == set(samples(server.metrics()))


def test_what_is_not_http_has_one_line(tmp_path: Path) -> None:
    """Repeated TLS handshakes to the plain port give one line per minute, without their bytes; probes of HAProxy, which
    reset the connection before they read the response, give none."""
    toy_model.write(tmp_path)
    with serving(tmp_path) as server:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.metrics_port), timeout=60) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.metrics_port), timeout=60) as peer:
                peer.sendall(b"\x16\x03\x01\x00\x05secret\n\n")
                while peer.recv(4096):
                    pass
        assert "kanserve_" in server.metrics()
        lines = [line for line in server.lines() if line["event"] == "metrics_requests_rejected"]
        assert [(line["rejected"], line["found"]) for line in lines] == [
            (1, "a TLS handshake, but this port uses plain HTTP")
        ]
        assert [line for line in server.lines() if line["event"] == "stderr_output"] == []
        assert "secret" not in server.log.read_text()
