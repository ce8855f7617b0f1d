"""Shadow deployment: a version that runs on a copy of the traffic, and the differences of its outputs.

No client gets its outputs or waits for them. The server copies completed requests, runs them one after another on a
low-priority thread, and drops them if too many wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from kanserve.errors import KanserveError
from kanserve.insight import statistics
from kanserve.models.model import Copy, Model
from kanserve.observability.metrics import Metrics
from kanserve.system.resources import pool
from kanserve.types import Array

Floats = NDArray[np.float64]
WAIT, BYTES = 256, 16 * 2**20  # copies that wait, and their bytes together
NICE = 19


class Shadow:
    """Shadow deployment of one version, for use on the event loop except for its own thread.

    share      share of the requests that are copied, 0 to 1
    tolerance  relative difference above which a row is out of tolerance, relative to the largest output of the row
               or to 1
    """

    def __init__(self, model: Model, baseline_version: int, share: float, tolerance: float, metrics: Metrics) -> None:
        self.model, self.baseline_version, self.share, self.tolerance = model, baseline_version, share, tolerance
        self.requests = self.rows = self.rows_out_of_tolerance = self.requests_dropped = self.requests_failed = 0
        self.largest_difference = 0.0
        outputs = model.info.outputs
        self._class_output = outputs[0].name if statistics.has_classes(outputs) else None
        self.rows_with_other_class: int | None = None if self._class_output is None else 0
        # Looked up once: the thread may count after an unload, which has removed the series of the version.
        labels = (model.info.name, str(model.info.version))
        names = ["rows_total", "mismatched_rows_total", "dropped_requests_total", "failed_requests_total"]
        names += ["max_difference_ratio", *(["other_class_rows_total"] if self._class_output is not None else [])]
        self._series = {name: metrics.number(f"kanserve_shadow_{name}").labels(*labels) for name in names}
        self._due, self._waiting, self._bytes = 0.0, 0, 0
        self._ended = False
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor = pool(1, f"shadow-{model.info.name}", NICE)
        self._series["max_difference_ratio"].set(0)

    def offer(self, names: Sequence[str], size: int, copy: Callable[[], Copy]) -> None:
        """Receive a completed request with `size` bytes of inputs and outputs, which `copy` returns as arrays. Does
        nothing after the end."""
        if self._ended:
            return
        self._due += self.share
        if self._due < 1:
            return
        self._due -= 1
        if self._waiting >= WAIT or self._bytes + size > BYTES:
            self.requests_dropped += 1
            self._series["dropped_requests_total"].inc()
            return
        self._hold(1, size)
        self._pool.submit(self._work, names, size, copy)

    def _hold(self, copies: int, size: int) -> None:
        with self._lock:
            self._waiting += copies
            self._bytes += size

    def end(self) -> None:
        """Receive no more copies, and drop the waiting ones."""
        self._ended = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self, names: Sequence[str], size: int, copy: Callable[[], Copy]) -> None:
        feeds, expected = copy()
        try:
            actual = self.model.session.run(names, feeds)
            difference = differences(expected, actual)
            pairs = [(expected[at], actual[at]) for at, name in enumerate(names) if name == self._class_output]
            other = sum(other_classes(*pair) for pair in pairs)
        except (KanserveError, ValueError):
            self.requests_failed += 1
            self._series["failed_requests_total"].inc()
        else:
            beyond = int((~(difference <= self.tolerance)).sum())
            self.requests += 1
            self.rows += len(difference)
            self.rows_out_of_tolerance += beyond
            self.largest_difference = max(self.largest_difference, float(difference.max(initial=0.0)))
            self._series["rows_total"].inc(len(difference))
            self._series["mismatched_rows_total"].inc(beyond)
            if self.rows_with_other_class is not None:
                self.rows_with_other_class += other
                self._series["other_class_rows_total"].inc(other)
            self._series["max_difference_ratio"].set(self.largest_difference)
        finally:
            self._hold(-1, -size)


def differences(expected: Sequence[Array], actual: Sequence[Array]) -> Floats:
    """The largest difference of each row [B], relative to its largest output or to 1. It is infinite if only one of
    two values is a number. Two strings differ by 0 or infinity. Raises ValueError for other shapes."""
    worst = np.zeros(len(expected[0]))
    for array, other in zip(expected, actual, strict=True):
        if array.shape != other.shape:
            raise ValueError(f"the output has the shape {other.shape}, expected {array.shape}")
        rows = len(array)
        if array.dtype.hasobject:
            difference = np.where((array == other).reshape(rows, -1), 0.0, np.inf)
        else:
            own, theirs = (each.reshape(rows, -1).astype(np.float64) for each in (array, other))
            finite = np.isfinite(own)
            scale = np.maximum(1.0, np.abs(np.where(finite, own, 0.0)).max(axis=1, initial=0.0, keepdims=True))
            with np.errstate(invalid="ignore"):
                difference = np.where(finite & np.isfinite(theirs), np.abs(theirs - own) / scale, np.inf)
            difference = np.where((own == theirs) | (np.isnan(own) & np.isnan(theirs)), 0.0, difference)
        worst = np.maximum(worst, difference.max(axis=1, initial=0.0))
    return worst


def other_classes(expected: Array, actual: Array) -> int:
    """The number of rows of [B, ..., C] whose class, the number of the largest output, differs at any position.
    NaN counts as a separate class."""
    different = _classes(expected) != _classes(actual)
    return int(different.reshape(len(expected), -1).any(axis=1).sum())


def _classes(outputs: Array) -> NDArray[np.int64]:
    values = outputs.astype(np.float64)
    return np.where(np.isnan(values).any(axis=-1), -1, values.argmax(axis=-1))
