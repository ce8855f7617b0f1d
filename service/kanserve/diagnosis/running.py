"""A server that runs: whether it answers, what it serves, and what its metrics say has gone wrong."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

from kanserve.client.answers import IndexEntry
from kanserve.client.connection import Client
from kanserve.client.errors import ClientError
from kanserve.diagnosis.finding import Finding, ok, problem, warning

ABOUT = "server"
SECONDS = 5.0  # for its metrics
MOST = 2**24  # bytes of them
READY = "READY"
# Where samples begin so, what they count in words, and what to do.
COUNTED = (
    ("kanserve_log_lines_dropped_total", "", "log lines were lost", "see to whoever reads them"),
    ("kanserve_model_load_failures_total", "", "loads of versions failed", "its log says why: `load failed`"),
    ("kanserve_worker_ends_total", "", "workers ended", "its log says how: `a worker ended`"),
    ("kanserve_settings_refused", "", "reading of the settings failed", "correct the file, then SIGHUP"),
    ("kanserve_settings_waiting", "", "changed settings wait for a restart", "restart it at a quiet time"),
    ("nv_inference_request_failure", 'reason="BACKEND"', "inferences failed in the runtime", "its log: `rpc`"),
    ("nv_inference_request_failure", 'reason="REJECTED"', "inferences were turned away", "more came than it may take"),
)


def look(client: Client, metrics: str) -> Iterator[Finding]:
    """By its protocol, and by the page of metrics at `metrics`, an address with a port."""
    try:
        state, index = client.health(), client.index()
    except ClientError as error:
        yield problem(ABOUT, f"{client.url}: {error}", "start it, or name another with --url")
        return
    if state == "SERVING":
        yield ok(ABOUT, f"{client.url} is live and ready")
    else:
        yield problem(ABOUT, f"{client.url} answers, and is {state}", "the next lines say which version it waits for")
    serving = {entry.name for entry in index if entry.state == READY}
    for entry in index:
        yield _version(entry, others=entry.name in serving)
    yield from _counted(metrics)


def _version(entry: IndexEntry, *, others: bool) -> Finding:
    """`others`: whether another version of the model serves, if this one does not."""
    named = f"{entry.name} version {entry.version or 'none'}"
    if entry.state == READY:
        return ok(ABOUT, f"{named} serves")
    found = warning if others else problem
    return found(ABOUT, f"{named} is {entry.state}: {entry.reason or 'no reason is told'}", "its log: `load failed`")


def _counted(address: str) -> Iterator[Finding]:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=SECONDS) as answer:
            page = answer.read(MOST).decode("utf-8", "replace")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        yield warning("metrics", f"http://{address}/metrics: {reason}", "name their address with --metrics")
        return
    said = [
        warning("metrics", f"{count:g} {words}", advice)
        for name, label, words, advice in COUNTED
        if (count := _sum(page, name, label))
    ]
    yield from said or [ok("metrics", "nothing was lost, no load and no inference failed")]


def _sum(page: str, name: str, label: str) -> float:
    samples = (line.rpartition(" ") for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
    return sum(float(value) for sample, _, value in samples if label in sample)
