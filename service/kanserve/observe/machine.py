"""How busy the machine is, by Triton's names: read from /proc when asked.

Source: proc(5), `/proc/stat` and `/proc/meminfo`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

IDLE = slice(3, 5)  # of the times in /proc/stat: idle, and waiting for a disk
OWN = 8  # the rest are times of guests, which are in the first two already
HELP = {
    "nv_cpu_utilization": "CPU utilization rate [0.0 - 1.0]",
    "nv_cpu_memory_total_bytes": "CPU total memory (RAM), in bytes",
    "nv_cpu_memory_used_bytes": "CPU used memory (RAM), in bytes",
}


class Machine:
    """Since when the share of busy time counts: since the last look, or since the machine started."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc, self._lock = proc, threading.Lock()
        self._last = (0, 0)

    def lines(self) -> Iterator[str]:
        """In Prometheus' text format; nothing where there is no /proc."""
        try:
            values = [self._busy(), *self._memory()]
        except (OSError, ValueError, KeyError):
            return
        for (name, text), value in zip(HELP.items(), values, strict=True):
            yield f"# HELP {name} {text}\n# TYPE {name} gauge\n{name} {value}\n"

    def _busy(self) -> float:
        """The share of time since the last look in which processors were at work."""
        first = (self._proc / "stat").read_text().partition("\n")[0]
        times = [int(word) for word in first.split()[1 : 1 + OWN]]
        with self._lock:
            idle, total = sum(times[IDLE]) - self._last[0], sum(times) - self._last[1]
            self._last = (sum(times[IDLE]), sum(times))
        return 0.0 if total <= 0 else round(min(1.0, max(0.0, 1 - idle / total)), 4)

    def _memory(self) -> tuple[int, int]:
        """Bytes that there are, and that are in use."""
        rows = (line.partition(":") for line in (self._proc / "meminfo").read_text().splitlines())
        kilobytes = {name: int(words.split()[0]) for name, _, words in rows if name in ("MemTotal", "MemAvailable")}
        total = kilobytes["MemTotal"] * 1024
        return total, total - kilobytes["MemAvailable"] * 1024
