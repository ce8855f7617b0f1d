"""How the server does, for people: rates, times, batches, errors, versions and what became of them, of the metrics'
page and of what the server knows beside it.

Rates need two readings. They are taken when somebody asks, at most one a second for all who do, and kept for some
minutes: while nobody looks it costs nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

from kanexport.manifest import arrows, row_shapes
from kanserve.handlers.catalogue import Catalogue
from kanserve.handlers.control import Control
from kanserve.handlers.shadow import Report
from kanserve.nouns import ModelInfo, VersionStatus
from kanserve.observe import figures
from kanserve.observe.figures import Figures, Ledger, Span
from kanserve.observe.merged import Page

KEPT, APART, ROOM = 300, 1.0, 3000  # readings, seconds between two, and readings of one version in all
RECENT = 300.0  # seconds
GOOD = ("OK", "2", "3")  # with which the codes of calls begin that went well
LEFT = ("CANCELLED", "499")  # how a watch ends when who watched goes
WATCHES = ("/WatchStatistics", "/Watch", "/watch")

Told = dict[str, Any]


class Operations:
    """The use case; one per server. `page`: what /metrics shows."""

    def __init__(self, catalogue: Catalogue, control: Control, page: Page) -> None:
        self._catalogue, self._control, self._page = catalogue, control, page
        self._ledger = Ledger(KEPT, APART, ROOM)
        self._looking: asyncio.Task[None] | None = None

    async def tell(self, since: float) -> Told:
        """Everything; of the readings, those later than `since`, in seconds since the epoch."""
        await self._look()
        now, before = self._ledger.last, self._ledger.since(RECENT)
        return {
            "at": now.at,
            "recent_seconds": 0.0 if before is None else now.at - before.at,
            "server": self._server(now),
            "versions": [self._version(one, now, before) for one in self._catalogue.index(only_ready=False)],
            "calls": list(_calls(now, before)),
            "shadows": [self._shadow(report, now) for report in self._control.shadows.reports()],
            "history": [
                {"at": one.at, "what": one.what, "model": one.model, "version": str(one.version), "text": one.text}
                for one in self._control.rollout.history.latest()
            ],
            "readings": [_reading(step, older) for older, step in self._ledger.steps(since)],
        }

    async def overview(self) -> Told:
        """A summary of each version: its identity, the verification of its export, its use, and its traffic."""
        await self._look()
        now, before = self._ledger.last, self._ledger.since(RECENT)
        versions = [self._short(one, now, before) for one in self._catalogue.index(only_ready=False)]
        return {"at": now.at, "versions": versions}

    async def _look(self) -> None:
        """Read the metrics, if the last reading is old enough. All callers that wait share one reading, and it goes on
        if some of them leave."""
        if self._looking is None and self._ledger.due(time.time()):
            self._looking = asyncio.ensure_future(self._looked())
        if self._looking is not None:
            await asyncio.shield(self._looking)

    async def _looked(self) -> None:
        try:
            self._ledger.add(await asyncio.to_thread(self._read))
        finally:
            self._looking = None

    def _short(self, one: VersionStatus, now: Figures, before: Figures | None) -> Told:
        """`drift`: the largest ratio to the no-drift threshold; None without a baseline. `error`: the largest relative
        error of the outputs in the verification, on finite rows."""
        registry, key = self._catalogue.registry, (one.name, str(one.version))
        model = registry.model(one.name, one.version)
        total, recent = (figures.span(key, now, since) for since in (None, before))
        found: Told = {
            "model": one.name,
            "version": str(one.version),
            "state": one.state,
            "reason": one.reason,
            "default": registry.default(one.name) == one.version,
            "requests": total.requests,
            "rows": total.rows,
            "requests_per_second": recent.requests / recent.seconds if recent.seconds else None,
            "drift": now.numbers.get(key, {}).get("drift"),
        }
        return found if model is None else found | _identity(model.info)

    def _read(self) -> Figures:
        text = self._page.text()
        return figures.read(text.decode(), time.time())

    def _server(self, now: Figures) -> Told:
        return {**now.build, **now.server, "ready": self._catalogue.ready(), "live": self._catalogue.live()}

    def _version(self, one: VersionStatus, now: Figures, before: Figures | None) -> Told:
        key, own = (one.name, str(one.version)), now.numbers.get((one.name, str(one.version)), {})
        registry = self._catalogue.registry
        model = registry.model(one.name, one.version)
        manifest = None if model is None else model.info.manifest
        return {
            "model": one.name,
            "version": str(one.version),
            "state": one.state,
            "reason": one.reason,
            "default": registry.default(one.name) == one.version,
            "chosen": registry.choice(one.name) is not None,
            "digest": "" if model is None else model.info.digest,
            "has_card": manifest is not None,
            "loads": own.get("loads", 0),
            "load_seconds": own.get("load_seconds", 0),
            "pending": own.get("pending", 0),
            "rows_outside": own.get("rows_outside", 0),
            "total": _span(figures.span(key, now, None)),
            "recent": None if before is None else _span(figures.span(key, now, before)),
        }

    def _shadow(self, report: Report, now: Figures) -> Told:
        """What was counted is of all processes, as the metrics have it."""
        own = now.numbers.get((report.model, str(report.version)), {})
        return {
            "model": report.model,
            "version": str(report.version),
            "against": str(report.against),
            "running": report.running,
            "share": report.share,
            "tolerance": report.tolerance,
            "rows": own.get("shadow_rows", 0),
            "rows_beyond": own.get("shadow_beyond", 0),
            "dropped": own.get("shadow_dropped", 0),
            "failed": own.get("shadow_failed", 0),
            "largest_difference": own.get("shadow_largest", 0),
        }


def _identity(info: ModelInfo) -> Told:
    """The identity of a version that serves. Without a manifest, only its shape is known."""
    shapes = [[tensor.shape for tensor in tensors] for tensors in (info.inputs, info.outputs)]
    known = info.manifest
    if known is None:
        return {"family": "", "shape": arrows(row_shapes(shapes[0], (), shapes[1])), "against": "", "error": None}
    errors = [zone.outputs_max_rel for zone in known.verification.zones if zone.name != "nonfinite"]
    return {
        "family": known.source.family,
        "shape": arrows(row_shapes(shapes[0], known.layers, shapes[1])),
        "against": known.against,
        "error": max(errors, default=None),
    }


def _reading(now: Figures, before: Figures) -> Told:
    """Between two readings, of versions that did something."""
    found = []
    for key in now.numbers:
        span = figures.span(key, now, before)
        if span.requests or any(span.failures.values()):
            found.append({"model": key[0], "version": key[1], **_rates(span)})
    return {"from": before.at, "to": now.at, "versions": found}


def _rates(span: Span) -> Told:
    seconds = max(span.seconds, 1e-9)
    return {
        "requests_per_second": span.requests / seconds,
        "rows_per_second": span.rows / seconds,
        "failures_per_second": sum(span.failures.values()) / seconds,
        **span.quantiles,
        **_mean(span),
    }


def _mean(span: Span) -> Mapping[str, Any]:
    return {**span.phases, "rows_per_run": span.rows / span.runs if span.runs else None}


def _span(span: Span) -> Told:
    rates = _rates(span) if span.seconds else {**span.quantiles, **_mean(span)}
    return {
        "seconds": span.seconds,
        "requests": span.requests,
        "rows": span.rows,
        "runs": span.runs,
        "failures": dict(span.failures),
        **rates,
        "batches": [
            {"up_to": None if bound == float("inf") else bound, "runs": count} for bound, count in span.batches
        ],
    }


def _calls(now: Figures, before: Figures | None) -> Iterator[Told]:
    """By method and code, those that there were."""
    for (method, code), count in sorted(now.calls.items()):
        old = None if before is None else count - before.calls.get((method, code), 0.0)
        yield {
            "method": method,
            "code": code,
            "good": code.startswith(GOOD) or (code in LEFT and method.endswith(WATCHES)),
            "count": count,
            "recent": old,
        }
