"""Checks of a running server: its response, its versions and the failures in its metrics."""

from __future__ import annotations

import contextlib
import http.client
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from kanserve.cli.doctor.check_results import Finding, ok, problem, warning
from kanserve.client.base import Tls
from kanserve.client.errors import ClientError
from kanserve.client.results import IndexEntry
from kanserve.client.sync import Client

ABOUT = "server"
SECONDS = 5.0  # for its metrics
MOST = 2**24  # bytes of them
OWN = "kanserve_"  # prefix of kanserve's own metric names
READY = "READY"
# Where samples begin so, what they count in words, and what to do.
COUNTED = (
    ("kanserve_log_lines_dropped_total", "", "log lines dropped", "check the reader of the log"),
    ("kanserve_model_load_failures_total", "", "loads of versions failed", "check the log event model_load_failed"),
    ("kanserve_worker_exits_total", "", "worker processes exited", "check the log event worker_exited"),
    ("kanserve_settings_reload_failed", "", "failed reload of the settings", "correct the file, and send SIGHUP"),
    ("kanserve_settings_pending_restart", "", "changed settings are pending a restart", "restart the server"),
    (
        "nv_inference_request_failure",
        'reason="BACKEND"',
        "inferences failed in the runtime",
        "check the log event request_completed of level error",
    ),
    (
        "nv_inference_request_failure",
        'reason="REJECTED"',
        "inferences rejected",
        "send fewer requests, or raise the limits of the server",
    ),
)


@dataclass(frozen=True, slots=True)
class Source:
    """Host and port that may have the metrics page of the server.

    address  host and port
    tls      files of TLS; None: no TLS
    headers  the client's credentials
    """

    address: str
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"{'http' if self.tls is None else 'https'}://{self.address}/metrics"

    def read(self) -> str:
        """The text of the page. Raises OSError, ValueError."""
        try:
            plain = http.client.HTTPConnection(self.address, timeout=SECONDS)
            with contextlib.closing(plain if self.tls is None else _Secure(self.address, self.tls)) as connection:
                connection.request("GET", "/metrics", headers=dict(self.headers))
                response = connection.getresponse()
                page = response.read(MOST).decode("utf-8", "replace")
        except http.client.HTTPException as error:
            raise OSError("no HTTP response") from error
        if response.status != HTTPStatus.OK:
            raise OSError(f"{response.status} {response.reason}")
        if OWN not in page:
            raise OSError("the metrics are not those of kanserve")
        return page


class _Secure(http.client.HTTPSConnection):
    """HTTPS connection that checks the certificate for a given name."""

    def __init__(self, address: str, tls: Tls) -> None:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert:
            context.load_cert_chain(tls.cert, tls.key)
        super().__init__(address, timeout=SECONDS, context=context)
        self._own, self._name = context, tls.server_name

    def connect(self) -> None:
        """Raises OSError."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._own.wrap_socket(self.sock, server_hostname=self._name or self.host)


def check_server(client: Client, metrics: Sequence[Source]) -> Iterator[Finding]:
    """Findings about a running server, from its protocol and its metrics page. The page is at the first of `metrics`
    that has one."""
    try:
        state, index = client.health(), client.index()
    except ClientError as error:
        yield problem(ABOUT, f"{client.url}: {error}", "start the server, or pass another address with --url")
        return
    if state == "SERVING":
        yield ok(ABOUT, f"{client.url} is live and ready")
    else:
        yield problem(ABOUT, f"{client.url} is {state}", "check the versions in the next lines")
    serving = {entry.name for entry in index if entry.state == READY}
    for entry in index:
        yield _version(entry, others=entry.name in serving)
    failed = []
    for source in metrics:
        try:
            page = source.read()
        except (OSError, ValueError) as error:
            failed.append(f"{source.url}: {error}")
            continue
        counts = [(_sum(page, name, label), words, advice) for name, label, words, advice in COUNTED]
        warnings = [warning("metrics", f"{count:g} {words}", advice) for count, words, advice in counts if count]
        yield from warnings or [ok("metrics", f"{source.url}: no dropped log lines, no failed loads or inferences")]
        return
    yield warning("metrics", "; ".join(failed), "pass their address with --metrics, and a token with --token-file")


def _version(entry: IndexEntry, *, others: bool) -> Finding:
    """`others`: whether another version of the model serves, if this one does not."""
    named = f"{entry.name} version {entry.version or 'none'}"
    if entry.state == READY and not entry.reason:
        return ok(ABOUT, f"{named} is ready")
    finding = warning if others else problem  # also if files were rejected while the version before keeps serving
    return finding(
        ABOUT,
        f"{named} is {entry.state}: {entry.reason or 'no reason reported'}",
        "check the log event model_load_failed",
    )


def _sum(page: str, name: str, label: str) -> float:
    samples = (line.rpartition(" ") for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(value) for sample, _, value in samples if label in sample)
