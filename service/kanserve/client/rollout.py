"""Rollout of a default version over several servers, wave by wave, with a stop and a rollback at the first bad sign.

In each wave, the new version first runs as a shadow on the servers of the wave, while the old version serves. Then it
serves there. The rollout stops if the outputs differ, if requests fail more often than with the old version, or if the
traffic of the new version drifts from its baseline and that of the old one does not.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kanserve.analysis import drift
from kanserve.client import control, fleet
from kanserve.client.control import RequestCounts, ShadowReport
from kanserve.client.errors import ClientError, NotSupported
from kanserve.client.sync import Client

T = TypeVar("T")
Report = Callable[..., None]  # receives an event of a rollout: its name, a text for people, and the facts by name
POLL, PROGRESS = 0.5, 10.0  # seconds between two readings, and between two reports of progress
DRIFT = 2.0  # ratio of PSI to the no-drift threshold, which alone is exceeded by chance in 1% of the readings


class Stopped(Exception):
    """Stop of a rollout. The text is the reason."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Rows that each wave compares and then serves, and the tolerance of the comparison; 0: that of the export."""

    rows: int
    tolerance: float


def waves(servers: Sequence[str], percents: Sequence[int]) -> list[Sequence[str]]:
    """The servers of each wave. `percents`: share of all servers up to the end of each wave, rounded up."""
    ends = [0, *(-(-percent * len(servers) // 100) for percent in percents)]
    parts = [servers[start:end] for start, end in itertools.pairwise(ends)]
    return [part for part in parts if part]


def failures_allowed(usual: RequestCounts, requests: int) -> float:
    """Failures that the rate of the old version explains: their expected number plus three standard deviations of a
    Poisson number, and one."""
    expected = requests * usual.failures / max(usual.requests, 1)
    return expected + 3 * math.sqrt(expected) + 1


class Rollout:
    """Rollout of one version. `changed`: the servers with the new default version, and the default version before."""

    def __init__(self, clients: Mapping[str, Client], name: str, version: str, limits: Limits, report: Report) -> None:
        self._clients, self._name, self._version = clients, name, version
        self._limits, self._report = limits, report
        self.changed: dict[str, str] = {}
        self._shadowed: set[str] = set()

    def run(self, percents: Sequence[int]) -> None:
        """Change all servers. After an error or Ctrl-C, the servers have their default versions of before. Raises
        Stopped, and ArgumentError if the servers of a wave have other old versions or other files."""
        parts = waves(list(self._clients), percents)
        with contextlib.ExitStack() as undo:
            undo.callback(self._undo)
            for address, entries in self._ask(self._clients, Client.index).by_server.items():
                states = {(entry.name, entry.version): entry.state for entry in entries}
                state = states.get((self._name, self._version), "missing")
                if state != "READY":
                    raise Stopped(f"{address}: version {self._version} of '{self._name}' is {state}, expected READY")
            for number, servers in enumerate(parts, 1):
                text = f"wave {number} of {len(parts)}: {', '.join(servers)}"
                self._report("wave", text, wave=number, waves=len(parts), servers=list(servers))
                self._wave(number, {address: self._clients[address] for address in servers})
            undo.pop_all()

    def _wave(self, number: int, servers: Mapping[str, Client]) -> None:
        clients, before = {}, []
        for address, client in servers.items():
            self._shadowed.add(address)
            try:
                shadow = control.shadow(client, self._name, self._version, tolerance=self._limits.tolerance)
            except ClientError as error:
                if error.error_code != "shadow-of-default-version":
                    raise Stopped(f"{address}: {error}") from error
            else:
                clients[address] = client
                before.append(shadow.baseline_version)
        if not clients:
            self._report("served", f"  version {self._version} is the default version already", wave=number)
            return
        old = before[0]
        self._rows("compared", lambda: self._compared(clients, old).rows)
        report = self._compared(clients, old)
        text = f"  compared {report.rows} rows with version {old}: largest difference {report.largest_difference:.3g}"
        facts = {"difference": report.largest_difference, "rows_with_other_class": report.rows_with_other_class}
        self._report("compared", text, wave=number, rows=report.rows, **facts)
        self._serve(number, clients, old)

    def _serve(self, number: int, clients: Mapping[str, Client], old: str) -> None:
        """Set the default version on servers whose default version is `old`, and watch their traffic."""
        drift_before = self._drift(clients, old) or 0.0
        usual, start = (self._counts(clients, version) for version in (old, self._version))
        for address, client in clients.items():
            self.changed[address] = old  # first, because a call may fail after the server obeyed
            try:
                control.promote(client, self._name, self._version)
            except ClientError as error:
                raise Stopped(f"{address}: {error}") from error
        self._report("promoted", f"  promoted version {self._version}", wave=number, servers=list(clients))
        self._rows("served", lambda: self._served(clients, usual, start).rows)
        counts, ratio = self._served(clients, usual, start), self._drift(clients, self._version)
        if ratio is not None and ratio > DRIFT * max(1.0, drift_before):
            raise Stopped(
                f"the traffic of version {self._version} drifted from its baseline: PSI is {ratio:.3g} times the "
                f"no-drift threshold, expected at most {DRIFT:g}"
            )
        shown = "not measured" if ratio is None else f"{ratio:.3g}"
        text = f"  served {counts.rows} rows of {counts.requests} requests, {counts.failures} failed; drift {shown}"
        facts = {"requests": counts.requests, "failures": counts.failures, "drift": ratio}
        self._report("served", text, wave=number, rows=counts.rows, **facts)

    def _compared(self, clients: Mapping[str, Client], old: str) -> ShadowReport:
        """The report of all shadows. Raises Stopped for a difference, a failure, or a shadow that ended."""
        report = fleet.added_shadows(self._ask(clients, lambda client: control.shadow(client, self._name)))
        if not report.running or (report.version, report.baseline_version) != (self._version, old):
            raise Stopped("the shadow ended: the default version changed, or the version was unloaded")
        if report.requests_failed:
            raise Stopped(f"version {self._version} failed to compute {report.requests_failed} mirrored requests")
        if report.rows_out_of_tolerance:
            other = report.rows_with_other_class
            raise Stopped(
                f"{report.rows_out_of_tolerance} of {report.rows} rows are out of tolerance {report.tolerance:.3g}, "
                f"the largest difference is {report.largest_difference:.3g}"
                + (f", {other} rows have another class" if other is not None else "")
            )
        return report

    def _served(self, clients: Mapping[str, Client], usual: RequestCounts, start: RequestCounts) -> RequestCounts:
        """Requests of the new version since `start`. Raises Stopped if more of them failed than `usual` explains."""
        counts = self._counts(clients, self._version).minus(start)
        if counts.failures > failures_allowed(usual, counts.requests):
            raise Stopped(
                f"{counts.failures} of {counts.requests} requests to version {self._version} failed, before "
                f"{usual.failures} of {usual.requests}"
            )
        return counts

    def _counts(self, clients: Mapping[str, Client], version: str) -> RequestCounts:
        every = self._ask(clients, lambda client: control.request_counts(client, self._name, version)).values
        return RequestCounts(*(sum(column) for column in zip(*every, strict=True)))

    def _drift(self, clients: Mapping[str, Client], version: str) -> float | None:
        """Largest ratio of PSI to its threshold; None without a baseline, statistics or rows."""
        try:
            replies = self._ask(clients, lambda client: client.statistics(self._name, version, source="live"))
        except Stopped as error:
            if isinstance(error.__cause__, NotSupported):
                return None
            raise
        statistics = fleet.added(replies)
        if not (statistics.baseline_rows and statistics.row_count):
            return None
        return max(float(drift.ratios(part.psi, part.psi_threshold).max()) for part in statistics.nodes)

    def _rows(self, what: str, read: Callable[[], int]) -> None:
        """Wait until `read` returns the number of rows."""
        noted = time.monotonic()
        while (rows := read()) < self._limits.rows:
            if time.monotonic() > noted + PROGRESS:
                noted = time.monotonic()
                self._report("waiting", f"  {what} {rows} of {self._limits.rows} rows", what=what, rows=rows)
            time.sleep(POLL)

    def _ask(self, clients: Mapping[str, Client], send: Callable[[Client], T]) -> fleet.Replies[T]:
        """The replies of all servers. Raises Stopped if one is missing."""
        try:
            replies = fleet.ask(clients, send)
        except ClientError as error:
            raise Stopped(f"{next(iter(clients))}: {error}") from error
        for address, missing in replies.missing.items():
            raise Stopped(f"{address}: {missing}") from missing
        return replies

    def _undo(self) -> None:
        """Restore the default versions, and end the shadows."""
        failed = {}
        for address, version in self.changed.items():
            try:
                control.promote(self._clients[address], self._name, version)
            except ClientError as error:
                failed[address] = str(error)
        for address in self._shadowed - set(self.changed):
            with contextlib.suppress(ClientError):
                control.shadow(self._clients[address], self._name, stop=True)
        restored = {address: version for address, version in self.changed.items() if address not in failed}
        versions = ", ".join(sorted(set(restored.values())))
        count = f"{len(restored)} server{'s' * (len(restored) != 1)}"
        text = f"rolled back {count} to version {versions}" if restored else "no server was changed"
        for address, why in failed.items():
            text += f"\n  {address} was not rolled back, its default version may be {self._version}: {why}"
        self._report("rolled-back", text, servers=restored, failed=failed)
