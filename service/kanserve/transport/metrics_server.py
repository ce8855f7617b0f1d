"""HTTP server of the metrics port, on its own thread: /metrics, compressed if the client accepts that, and the probes
/healthz and /readyz, which need neither TLS nor a certificate here, and speak HTTP/1.0 too."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kanserve.config.hosts import Sites
from kanserve.observability import logs
from kanserve.observability.metrics import CONTENT_TYPE
from kanserve.observability.multiprocess import MetricsPage
from kanserve.system import compression

SCRAPERS = 32  # connections at the same time; each has a thread and a file, and further ones are closed
TLS = b"\x16\x03"  # first bytes of a TLS handshake
UNREAD = (HTTPStatus.BAD_REQUEST, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)  # for a request that is not HTTP
QUIET = 60.0  # seconds between two lines about requests that are not HTTP

TIMEOUT = 10.0  # seconds for a client to send its request, and to read the response

log = logs.get_logger("metrics")


class MetricsServer:
    """HTTP server for /metrics and probes on its own thread, so that load on the event loop does not delay it. The
    server process sets `live` and `ready`, which the probes report."""

    def __init__(self, metrics: MetricsPage, host: str, port: int, sites: Sites) -> None:
        """Bind the port. A silent client is disconnected after `TIMEOUT` seconds. Raises OSError if the address is
        taken."""
        self.live, self.ready = True, False
        pages: dict[str, Callable[[], tuple[bool, bytes]]] = {
            "/metrics": lambda: (True, metrics.text()),
            "/healthz": lambda: _state(self.live),
            "/readyz": lambda: _state(self.ready),
        }
        self._server = _Server((host, port), _handler(pages, sites))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving and release the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a slow scraper must not hold up the exit

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(SCRAPERS)
        self._lock, self._refused, self._told = threading.Lock(), 0, -QUIET
        super().__init__(address, handler)

    def refused(self, request: bytes) -> None:
        """Count a request that is not HTTP, and log it without its bytes, at most once per `QUIET` seconds."""
        with self._lock:
            self._refused += 1
            if time.monotonic() < self._told + QUIET:
                return
            count, self._refused, self._told = self._refused, 0, time.monotonic()
        what = (
            "a TLS handshake, but this port uses plain HTTP" if request.startswith(TLS) else "bytes that are not HTTP"
        )
        log.warning("metrics_requests_rejected", rejected=count, found=what)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write no lines for a client that disconnects: a probe of HAProxy does so after the status line."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for one more connection, or close the connection."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Respond to a request on its thread, and then free its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def _state(good: bool) -> tuple[bool, bytes]:
    return good, b"ok\n" if good else b"not ready\n"


def _handler(pages: Mapping[str, Callable[[], tuple[bool, bytes]]], sites: Sites) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT

        def do_GET(self) -> None:
            if fault := sites.fault(self.command, {name.lower(): value for name, value in self.headers.items()}):
                self.send_error(HTTPStatus.FORBIDDEN, explain=f"{fault}; {fault.hint}")
                return
            path, status, encoding = self.path.split("?")[0], HTTPStatus.NOT_FOUND, ""
            body = b"not found, expected /metrics, /healthz or /readyz\n"
            if page := pages.get(path):
                good, body = page()
                status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
            if path == "/metrics" and (encoding := compression.chosen(self.headers.get("Accept-Encoding", ""))):
                body = compression.packed(body, encoding)
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE if path == "/metrics" else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            if encoding:
                self.send_header("Content-Encoding", encoding)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def end_headers(self) -> None:
            """Add the headers of every response, also of those that the library makes."""
            self.send_header("X-Content-Type-Options", "nosniff")
            super().end_headers()

        def version_string(self) -> str:
            return "kanserve"

        def log_error(self, format: str, *args: object) -> None:
            """The library calls this with the status of a request that it rejects."""
            request: bytes = getattr(self, "raw_requestline", b"")
            if args and args[0] in UNREAD and isinstance(self.server, _Server):
                self.server.refused(request)

        def log_message(self, format: str, *args: object) -> None:
            """Write no line for a scrape."""

    return Handler
