"""How long what waits will take, from how long runs took."""

from __future__ import annotations

SHARE = 0.1  # of the newest run in the average


class Pace:
    """Seconds that a row takes on one instance, a moving average; nothing is known before the first run."""

    def __init__(self) -> None:
        self._row: float | None = None

    def ran(self, rows: int, seconds: float) -> None:
        """So many rows took so long, on one instance."""
        row = seconds / max(1, rows)
        self._row = row if self._row is None else self._row + SHARE * (row - self._row)

    def seconds(self, rows: int, instances: int) -> float:
        """How long so many rows take, shared by the instances."""
        return 0.0 if self._row is None else self._row * rows / max(1, instances)
