"""Which versions are tried on the traffic of others, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

from kanserve.errors import BadRequest, NotPossible
from kanserve.models.registry import Registry
from kanserve.models.shadow import Shadow
from kanserve.observe import logs
from kanserve.observe.metrics import Metrics

log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class Report:
    """What a version did on the traffic of another. Differences as in `models.shadow`."""

    model: str
    version: int
    against: int
    running: bool
    share: float
    tolerance: float
    requests: int
    rows: int
    beyond: int
    dropped: int
    failed: int
    largest: float


class Shadows:
    """One of each model at most. Follows the registry: a version that changes is tried anew, one that leaves or answers
    itself is tried no more."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry, self._metrics = registry, metrics
        self._running: dict[str, Shadow] = {}
        self._ended: dict[str, Report] = {}
        registry.tell(self._follow)

    def start(self, name: str, version: str, share: float, tolerance: float) -> Report:
        """Try a version; one that was tried before is no more. `share` 0: of all requests; `tolerance` 0: what its
        export allowed. Raises NotFound, NotPossible, BadRequest."""
        if not (0 <= share <= 1 and 0 <= tolerance < float("inf")):
            raise BadRequest(f"share {share:g} and tolerance {tolerance:g}: 0 to 1, and 0 or more, were expected")
        model, default = self._registry.resolve(name, version), self._registry.default(name)
        if default is None or default == model.info.version:
            raise NotPossible(
                f"version {model.info.version} of model '{name}' answers requests itself: try another, or promote one"
            )
        manifest = model.info.manifest
        allowed = tolerance or (manifest.verification.outputs_tolerance if manifest is not None else 0.0)
        self.stop(name)
        self._ended.pop(name, None)
        self._running[name] = Shadow(model, default, share or 1.0, allowed, self._metrics)
        self._follow()
        log.info("shadow", model=name, version=model.info.version, against=default, share=share or 1.0)
        return self.report(name)

    def stop(self, name: str) -> None:
        """Try none any more; what came of it stays."""
        shadow = self._running.pop(name, None)
        if shadow is not None:
            shadow.end()
            self._ended[name] = _report(shadow, running=False)
            self._lend(name, None)
            log.info("shadow ended", model=name, version=shadow.model.info.version, against=shadow.against)

    def report(self, name: str) -> Report:
        """What came of it until now. Raises NotFound, and NotPossible where none was tried."""
        self._registry.entry(name, "")
        shadow = self._running.get(name)
        if shadow is None and name not in self._ended:
            raise NotPossible(f"no version of model '{name}' is tried; name one")
        return self._ended[name] if shadow is None else _report(shadow, running=True)

    def reports(self) -> list[Report]:
        """Of all models of which one is tried, or was."""
        running = {name: _report(shadow, running=True) for name, shadow in self._running.items()}
        return [report for _, report in sorted((self._ended | running).items())]

    def _follow(self) -> None:
        for name, shadow in list(self._running.items()):
            version, default = shadow.model.info.version, self._registry.default(name)
            model = self._registry.model(name, version)
            if model is None or default in (None, version):
                self.stop(name)
            elif model is not shadow.model or default != shadow.against:
                shadow.end()
                assert default is not None
                self._running[name] = Shadow(model, default, shadow.share, shadow.tolerance, self._metrics)
            self._lend(name, self._running.get(name))

    def _lend(self, name: str, shadow: Shadow | None) -> None:
        """To the version that answers, and to no other."""
        default = self._registry.default(name)
        for version in self._registry.ready_versions(name):
            model = self._registry.model(name, version)
            if model is not None:
                model.observe("shadow", shadow if version == default else None)


def _report(shadow: Shadow, *, running: bool) -> Report:
    return Report(
        model=shadow.model.info.name,
        version=shadow.model.info.version,
        against=shadow.against,
        running=running,
        share=shadow.share,
        tolerance=shadow.tolerance,
        requests=shadow.requests,
        rows=shadow.rows,
        beyond=shadow.beyond,
        dropped=shadow.dropped,
        failed=shadow.failed,
        largest=shadow.largest,
    )
