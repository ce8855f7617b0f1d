"""Watch over the certified range of a version: an output outside of it, for a row in the certified box, is a bug.

The model offers requests after it has responded. The watch checks rows in the box at once, and then pauses, so that it
takes at most 1% of the event loop. It checks a part of the rows of a large request, and no requests during a pause.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.manifest import Manifest
from kanserve.observability import logs
from kanserve.observability.metrics import Number
from kanserve.types import Array, ModelInfo

log = logs.get_logger("models")

SHARE = 0.01  # of the event loop
NUMBERS = 2**16  # of the checked rows of one request
QUIET = 1.0  # seconds without a check after a violation, so that the log stays short


class CertifiedRange:
    """Certified box and range of a version with n inputs and m outputs."""

    def __init__(self, manifest: Manifest) -> None:
        stored = manifest.certificate
        self._low, self._high = np.array(stored.low), np.array(stored.high)
        self.output_low, self.output_high = np.array(stored.output_low), np.array(stored.output_high)

    def violations(self, x: Array, y: Array) -> NDArray[np.bool_]:
        """Flags [B] of the rows x [B, ...] in the box with an output y [B, ...] outside of the range, also NaN."""
        rows, outputs = x.reshape(len(x), -1), y.reshape(len(y), -1)
        inside = ((rows >= self._low) & (rows <= self._high)).all(axis=1)
        held = ((outputs >= self.output_low) & (outputs <= self.output_high)).all(axis=1)
        return np.asarray(inside & ~held)


class CertificateWatch:
    """Observer of the completed requests of one version, on the event loop. `violating` counts rows."""

    def __init__(self, info: ModelInfo, manifest: Manifest, violating: Number) -> None:
        self._range, self._violating = CertifiedRange(manifest), violating
        self._switch: Callable[[CertificateWatch | None], None] = lambda watch: None
        self._facts = {"model": info.name, "version": info.version}
        self._input, self._output = manifest.input.name, manifest.output.name
        self._width = len(manifest.certificate.low) + len(manifest.certificate.output_low)
        self._timer: asyncio.TimerHandle | None = None

    def start(self, switch: Callable[[CertificateWatch | None], None]) -> None:
        """Check requests from now on. `switch` sets their receiver: this watch, or None."""
        self._switch = switch
        switch(self)

    def offer(
        self, names: Sequence[str], size: int, copy: Callable[[], tuple[Mapping[str, Array], Sequence[Array]]]
    ) -> None:
        """Check a completed request."""
        if self._output not in names:
            return
        begun = time.thread_time()  # so that a busy machine does not make pauses longer
        feeds, outputs = copy()
        x, y = feeds[self._input], outputs[names.index(self._output)]
        step = max(1, -(-len(x) * self._width // NUMBERS))
        x, y = x[::step], y[::step]
        wrong = self._range.violations(x, y)
        count = int(np.count_nonzero(wrong))
        if count:
            self._violating.inc(count)
            values = y[int(wrong.argmax())].reshape(-1).astype(np.float64)  # of the first of these rows
            low, high = self._range.output_low, self._range.output_high
            at = int((~((values >= low) & (values <= high))).argmax())
            facts = {"output": at, "value": str(values[at]), "low": float(low[at]), "high": float(high[at])}
            log.error("output_outside_certified_range", **self._facts, rows=count, checked=len(x), **facts)
        seconds = max((time.thread_time() - begun) / SHARE, QUIET if count else 0.0)
        self._switch(None)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._switch, self)

    def end(self) -> None:
        """End the watch, so that the version can be freed."""
        self._switch = lambda watch: None
        if self._timer is not None:
            self._timer.cancel()
