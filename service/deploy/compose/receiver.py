"""Webhook of the compose stack, which prints every alert that Alertmanager delivers: `receiver.py HOST PORT`.

A line has the state, the alert, its severity, the server and the summary.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MOST = 2**20  # bytes of one delivery


class Webhook(BaseHTTPRequestHandler):
    """Handler of one delivery."""

    timeout = 10

    def do_POST(self) -> None:
        """Print the alerts of the body. The response is 400 for a body that is not a delivery of Alertmanager."""
        try:
            size = int(self.headers.get("Content-Length", ""))
            alerts = json.loads(self.rfile.read(min(size, MOST)))["alerts"]
            lines = [line(alert["status"], alert["labels"], alert["annotations"]) for alert in alerts]
        except (ValueError, KeyError, TypeError):
            self.send_error(HTTPStatus.BAD_REQUEST, "expected a delivery of Alertmanager")
            return
        # One write, because other deliveries print from their own threads.
        sys.stdout.write("".join(f"{each}\n" for each in lines))
        sys.stdout.flush()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Write no line for a request."""


def line(status: str, labels: dict[str, str], annotations: dict[str, str]) -> str:
    """One alert on one line."""
    facts = status, labels["alertname"], labels.get("severity", "-"), labels.get("instance", "-")
    return " ".join((*facts, annotations.get("summary", ""))).replace("\n", " ")


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM. Returns 2 for other arguments."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    # Process 1 of a container has no default action for SIGTERM.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    host, port = arguments
    with ThreadingHTTPServer((host, int(port)), Webhook) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
