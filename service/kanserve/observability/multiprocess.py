"""Merge of the metrics of several processes into one page.

Counters and histograms are added up, and the counts of a process that exited are kept. A sum that falls would look like
a restart, and `rate` would count everything again. `Definition.merge` says how gauges are merged.
Own code of 140 lines: the multiprocess mode of prometheus_client takes 1,830 ns to count, not 80, as it writes to
mapped files. It has no collectors such as those of the process, and keeps the series of an unloaded model.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Protocol

from kanserve.observability import logs
from kanserve.observability.metrics import DEFINITIONS, LINES_DROPPED, Merge

GROWING = ("counter", "histogram")
REDUCE: dict[Merge, Callable[[Iterable[float]], float]] = {Merge.SUM: sum, Merge.MIN: min, Merge.MAX: max}
RULES: dict[str, Callable[[Iterable[float]], float]] = {
    **{definition.name: REDUCE[definition.merge] for definition in DEFINITIONS},
    "process_start_time_seconds": min,
    "process_max_fds": max,
    "nv_model_load_duration_secs": max,
}
MACHINE = "nv_cpu_"  # the same in each process


SECONDS = 2.0  # that another process has to send its page


class MetricsPage(Protocol):
    """Interface of an object that returns a metrics page."""

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        ...


class RemoteMetrics:
    """Metrics page that another process serves at `address`. If that process is gone, the page is `own`."""

    def __init__(self, address: str, own: MetricsPage) -> None:
        self._address, self._own = address, own

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        with contextlib.suppress(OSError):
            return fetched(self._address)
        return self._own.text()


def fetched(address: str) -> bytes:
    """The page at an address of this machine, without a proxy of the environment. Raises OSError."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=SECONDS)) as connection:
        try:
            connection.request("GET", "/metrics")
            response = connection.getresponse()
            page = response.read()
        except http.client.HTTPException as error:
            raise OSError("no HTTP response") from error
    if response.status != HTTPStatus.OK:
        raise OSError(f"{response.status} {response.reason}")
    return page


@dataclass(slots=True)
class _Family:
    """Metric of a parsed page."""

    kind: str = "untyped"
    lines: list[str] = field(default_factory=list)  # HELP and TYPE
    values: dict[str, float] = field(default_factory=dict)


def merge(pages: Iterable[str], *, growing: bool = False) -> str:
    """Merge several pages into one. `growing`: only counters and histograms."""
    families: dict[str, _Family] = {}
    for page in pages:
        for name, family in _read(page).items():
            whole = families.setdefault(name, _Family(family.kind, family.lines))
            add = max if name.startswith(MACHINE) else RULES.get(name, sum)
            for sample, value in family.values.items():
                whole.values[sample] = add((whole.values[sample], value)) if sample in whole.values else value
    selected = (family for family in families.values() if not growing or family.kind in GROWING)
    lines = (line for x in selected for line in (*x.lines, *(f"{key} {value!r}" for key, value in x.values.items())))
    return "".join(f"{line}\n" for line in lines)


def _read(page: str) -> dict[str, _Family]:
    """The families of a page in Prometheus' text format, in the form of this server: grouped, without timestamps."""
    families: dict[str, _Family] = {}
    family = _Family()
    for line in page.splitlines():
        if line.startswith("# "):
            _, what, name, *rest = line.split(" ", 3)
            family = families.setdefault(name, _Family())
            family.lines.append(line)
            if what == "TYPE":
                family.kind = "".join(rest)
        elif line:
            sample, _, value = line.rpartition(" ")
            family.values[sample] = float(value)
    return families


class MultiprocessMetrics:
    """Metrics of all workers, including those that exited. The thread of the metrics port reads them."""

    def __init__(self) -> None:
        self._addresses: dict[int, str] = {}
        self._last: dict[int, str] = {}
        self._past = ""
        self._ended = 0
        self._lock = threading.Lock()

    def joined(self, number: int, address: str) -> None:
        """Add a worker."""
        with self._lock:
            self._addresses[number] = address

    def left(self, number: int) -> None:
        """Remove a worker that exited, and keep its counts up to the last scrape."""
        with self._lock:
            self._addresses.pop(number, None)
            self._past = merge([self._past, self._last.pop(number, "")], growing=True)
            self._ended += 1

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        for number, address in list(self._addresses.items()):
            with contextlib.suppress(OSError):
                page = fetched(address).decode()
                with self._lock:
                    if self._addresses.get(number) == address:  # it may have ended meanwhile
                        self._last[number] = page
        with self._lock:
            lost = f"# TYPE {LINES_DROPPED} counter\n{LINES_DROPPED} {logs.dropped()}\n"  # of this process' own lines
            pages = [self._past, lost, *(self._last[number] for number in self._addresses if number in self._last)]
        own = (
            "# HELP kanserve_workers Worker processes that run.\n# TYPE kanserve_workers gauge\n"
            f"kanserve_workers {len(self._addresses)}\n"
            "# HELP kanserve_worker_exits_total Worker processes that exited.\n"
            "# TYPE kanserve_worker_exits_total counter\n"
            f"kanserve_worker_exits_total {self._ended}\n"
        )
        return (merge(pages) + own).encode()
