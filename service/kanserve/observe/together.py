"""The page of all workers' metrics."""

from __future__ import annotations

import contextlib
import threading

from kanserve.observe import logs, merged
from kanserve.observe.metrics import LINES_DROPPED


class Together:
    """The metrics of all workers, and of those that were; read by the thread of the metrics port."""

    def __init__(self) -> None:
        self._addresses: dict[int, str] = {}
        self._last: dict[int, str] = {}
        self._past = ""
        self._ended = 0
        self._lock = threading.Lock()

    def joined(self, number: int, address: str) -> None:
        """A worker is there."""
        with self._lock:
            self._addresses[number] = address

    def left(self, number: int) -> None:
        """It is not any more; what it counted until it was last asked stays."""
        with self._lock:
            self._addresses.pop(number, None)
            self._past = merged.merge([self._past, self._last.pop(number, "")], growing=True)
            self._ended += 1

    def _take(self, number: int, address: str, page: str) -> None:
        with self._lock:
            if self._addresses.get(number) == address:  # it may have ended meanwhile
                self._last[number] = page

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        for number, address in list(self._addresses.items()):
            with contextlib.suppress(OSError):
                self._take(number, address, merged.fetched(address).decode())
        with self._lock:
            lost = f"# TYPE {LINES_DROPPED} counter\n{LINES_DROPPED} {logs.dropped()}\n"  # of this process' own lines
            pages = [self._past, lost, *(self._last[number] for number in self._addresses if number in self._last)]
        own = (
            "# HELP kanserve_workers Workers that answer.\n# TYPE kanserve_workers gauge\n"
            f"kanserve_workers {len(self._addresses)}\n"
            "# HELP kanserve_worker_ends_total Workers that ended.\n# TYPE kanserve_worker_ends_total counter\n"
            f"kanserve_worker_ends_total {self._ended}\n"
        )
        return (merged.merge(pages) + own).encode()
