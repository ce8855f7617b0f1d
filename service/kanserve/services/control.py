"""Use cases of model control: readiness, statistics, the repository index, default versions and shadow deployments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from kanserve.errors import BadRequest, FailedPrecondition, KanserveError, NotFound, Unavailable
from kanserve.models.model import Model
from kanserve.models.reconciler import Reconciler
from kanserve.models.registry import Choice, Entry, Registry, State
from kanserve.models.shadow import Shadow
from kanserve.observability import logs
from kanserve.observability.metrics import Metrics
from kanserve.system.lifecycle import Lifecycle
from kanserve.types import ModelInfo, VersionStatus


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Use cases that read the state of the server; one object per server."""

    registry: Registry
    lifecycle: Lifecycle

    def live(self) -> bool:
        """The process answers and means to go on doing so."""
        return not (self.lifecycle.closed or self.lifecycle.stuck)

    def ready(self) -> bool:
        """Everything that was found is loaded, and the server is not on its way out."""
        return self.registry.ready and self.lifecycle.accepting

    def model_ready(self, name: str, version: str) -> bool:
        """Whether a version can be used now, which one that is not there cannot. Raises BadRequest."""
        try:
            entry = self.registry.entry(name, version)
        except (NotFound, Unavailable):
            return False
        return entry.state is State.READY and self.lifecycle.accepting

    def info(self, name: str, version: str) -> tuple[ModelInfo, list[int]]:
        """A version, and all ready versions of its model. Raises what `Registry.resolve` does."""
        model = self.registry.resolve(name, version)
        return model.info, self.registry.ready_versions(name)

    def model(self, name: str, version: str) -> Model:
        """A version that can be used. Raises what `Registry.resolve` does."""
        return self.registry.resolve(name, version)

    def statistics(self, name: str, version: str) -> list[Model]:
        """The models whose statistics are meant: one version, one name, or all.

        Raises BadRequest in Triton's words; for statistics it is not NotFound.
        """
        if not name:
            return self.registry.models()
        versions = [model for model in self.registry.models() if model.info.name == name]
        if not versions:
            raise BadRequest(f"requested model '{name}' is not available")
        if not version:
            return versions
        try:
            entry: Entry | None = self.registry.entry(name, version)
        except NotFound:
            entry = None
        if entry is None or entry.model is None:
            raise BadRequest(f"requested model version is not available for model '{name}'")
        return [entry.model]

    def index(self, *, only_ready: bool) -> list[VersionStatus]:
        """Every version that was found, with its state and what is wrong with it."""
        return self.registry.index(only_ready=only_ready)


NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"  # Triton's words
Order = dict[str, Any]  # as it goes to other processes: what is to be done, with which model, and how

log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class VersionChoice:
    """Default version of a model, and the previous default version."""

    model: str
    version: int
    previous_version: int


@dataclass(frozen=True, slots=True)
class Relayed:
    """Call that another worker has answered. This worker names it in its log while it carries out the order."""

    request_id: str
    caller_name: str
    facts: dict[str, object] = field(default_factory=dict)


def _nowhere(order: Order) -> None:
    """Drop an order, because no other worker serves the port."""


@dataclass(frozen=True, slots=True)
class WorkerBus:
    """Channel between the workers behind one port. `orders` holds those of other workers, `pass_on` sends one's own."""

    orders: asyncio.Queue[Order] = field(default_factory=asyncio.Queue)
    pass_on: Callable[[Order], None] = _nowhere


@dataclass(frozen=True, slots=True)
class Control:
    """Use cases that change models; one object per server."""

    reconciler: Reconciler
    registry: Registry
    shadows: Shadows
    relay: WorkerBus

    async def load(self, name: str, parameters: Collection[str]) -> None:
        """Load the current files of a model from the repository. Raises what `Reconciler.load_by_hand` does, and
        BadRequest for parameters, because a client cannot define a model."""
        self._check("load", parameters)
        await self.reconciler.load_by_hand(name)
        self._pass_on({"do": "load", "model": name})

    async def unload(self, name: str, parameters: Collection[str]) -> None:
        """Unload all versions of a model. Raises NotFound."""
        self._check("unload", set(parameters) - {"unload_dependents"})
        await self.reconciler.unload_by_hand(name)
        self._pass_on({"do": "unload", "model": name})

    def promote(self, name: str, version: str) -> VersionChoice:
        """Set the default version of a model; "": the highest ready one. The same choice again does not change the
        target of a rollback. Raises NotFound, FailedPrecondition, BadRequest."""
        before, choice = self._default(name), self.registry.choice(name)
        chosen = self._ready(name, version) if version else 0
        if choice is not None and choice.version == chosen:
            before = choice.previous_version
        return self._choose(name, Choice(chosen, before), "promote")

    def rollback(self, name: str) -> VersionChoice:
        """The version answers that did before the last choice, or where there was none, the one below. Raises
        NotFound, FailedPrecondition."""
        default, choice = self._default(name), self.registry.choice(name)
        lower = [version for version in self.registry.ready_versions(name) if version < default]
        target = choice.previous_version if choice is not None else max(lower, default=0)
        if not target:
            raise FailedPrecondition(f"model '{name}' has no ready version below {default} to go back to")
        return self._choose(name, Choice(self._ready(name, str(target)), default), "rollback")

    def shadow(self, name: str, version: str, share: float, tolerance: float) -> ShadowReport:
        """Try a version on the traffic of the one that answers. Raises what `Shadows.start` does."""
        report = self.shadows.start(name, version, share, tolerance)
        order = {"do": "shadow", "model": name, "version": report.version, "share": share, "tolerance": tolerance}
        self._pass_on(order)
        return report

    def unshadow(self, name: str) -> ShadowReport:
        """Try none. Raises what `Shadows.report` does."""
        report = self.shadows.report(name)
        self.shadows.stop(name)
        self._pass_on({"do": "shadow", "model": name, "version": 0})
        return self.shadows.report(name) if report.running else report

    def counted_anew(self, name: str, version: int, mark: float) -> None:
        """The statistics of a version were reset here; others do the same."""
        log.info("statistics_reset", model=name, version=version)
        self._pass_on({"do": "reset", "model": name, "version": version, "mark": mark})

    async def listen(self, *, until_done: bool = False) -> None:
        """Do what others were told to do. `until_done`: until nothing waits, else until cancelled."""
        while not (until_done and self.relay.orders.empty()):
            order = await self.relay.orders.get()
            by = order.get("by")
            logs.CALL.set(Relayed(by["request_id"], by["caller"]) if by else None)
            try:
                await self._obey(order)
            except KanserveError as error:
                log.warning("worker_sync_failed", order=order, reason=str(error))

    async def _obey(self, order: Order) -> None:
        name = order["model"]
        if order["do"] == "load":
            await self.reconciler.load_by_hand(name)
        elif order["do"] == "unload":
            await self.reconciler.unload_by_hand(name)
        elif order["do"] == "reset":
            model = self.registry.model(name, order["version"])
            if model is not None and model.live is not None:
                model.live.reset(order["mark"])
                log.info("statistics_reset", model=name, version=order["version"])
        elif order["do"] == "choose":
            self._take(name, Choice(order["version"], order["previous_version"]), order["how"])
        elif order["version"]:
            self.shadows.start(name, str(order["version"]), order["share"], order["tolerance"])
        else:
            self.shadows.stop(name)

    def _choose(self, name: str, choice: Choice, how: str) -> VersionChoice:
        self._take(name, choice, how)
        order = {
            "do": "choose",
            "model": name,
            "version": choice.version,
            "previous_version": choice.previous_version,
            "how": how,
        }
        self._pass_on(order)
        return VersionChoice(name, self._default(name), choice.previous_version)

    def _take(self, name: str, choice: Choice, how: str) -> None:
        self.registry.choose(name, choice if choice.version else None)
        self.reconciler.chosen(name, how, choice.previous_version)

    def _pass_on(self, order: Order) -> None:
        """Pass the order on, together with the call that caused it."""
        call = logs.CALL.get()
        by = {} if call is None else {"request_id": call.request_id, "caller": call.caller_name}
        self.relay.pass_on({**order, "by": by})

    def _default(self, name: str) -> int:
        return self.registry.entry(name, "").version

    def _ready(self, name: str, version: str) -> int:
        entry = self.registry.entry(name, version)
        if entry.model is None:
            raise FailedPrecondition(f"model '{name}' version {entry.version} is not ready, so it cannot answer")
        return entry.version

    def _check(self, what: str, parameters: Collection[str]) -> None:
        if not self.reconciler.by_hand:
            raise Unavailable(NOT_EXPLICIT)
        if parameters:
            raise BadRequest(f"unrecognized {what} parameter '{min(parameters)[:64]}'.")


def build(reconciler: Reconciler, registry: Registry, metrics: Metrics, relay: WorkerBus | None = None) -> Control:
    """The use cases of one server. `relay` is the channel to other workers, if there are any."""
    return Control(reconciler, registry, Shadows(registry, metrics), relay or WorkerBus())


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Results of a version on mirrored traffic. The differences are those of `models.shadow`."""

    model: str
    version: int
    baseline_version: int
    running: bool
    share: float
    tolerance: float
    requests: int
    rows: int
    rows_out_of_tolerance: int
    requests_dropped: int
    requests_failed: int
    largest_difference: float


class Shadows:
    """Registry of shadow deployments, at most one per model. If a version changes, its shadow starts again. If it is
    unloaded or becomes the default version, its shadow ends."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry, self._metrics = registry, metrics
        self._running: dict[str, Shadow] = {}
        self._ended: dict[str, ShadowReport] = {}
        registry.subscribe(self._follow)

    def start(self, name: str, version: str, share: float, tolerance: float) -> ShadowReport:
        """Try a version; one that was tried before is no more. `share` 0: of all requests; `tolerance` 0: what its
        export allowed. Raises NotFound, FailedPrecondition, BadRequest."""
        if not (0 <= share <= 1 and 0 <= tolerance < float("inf")):
            raise BadRequest(f"share {share:g} and tolerance {tolerance:g}: 0 to 1, and 0 or more, were expected")
        model, default = self._registry.resolve(name, version), self._registry.default(name)
        if default is None or default == model.info.version:
            raise FailedPrecondition(
                f"version {model.info.version} of model '{name}' answers requests itself: try another, or promote one"
            )
        manifest = model.info.manifest
        allowed = tolerance or (manifest.verification.outputs_tolerance if manifest is not None else 0.0)
        self.stop(name)
        self._ended.pop(name, None)
        self._running[name] = Shadow(model, default, share or 1.0, allowed, self._metrics)
        self._follow()
        log.info("shadow_started", model=name, version=model.info.version, against=default, share=share or 1.0)
        return self.report(name)

    def stop(self, name: str) -> None:
        """Try none any more; what came of it stays."""
        shadow = self._running.pop(name, None)
        if shadow is not None:
            shadow.end()
            self._ended[name] = _report(shadow, running=False)
            self._lend(name, None)
            log.info("shadow_stopped", model=name, version=shadow.model.info.version, against=shadow.baseline_version)

    def report(self, name: str) -> ShadowReport:
        """The results until now. Raises NotFound, and FailedPrecondition if the model has had no shadow."""
        self._registry.entry(name, "")
        shadow = self._running.get(name)
        if shadow is None and name not in self._ended:
            raise FailedPrecondition(f"model '{name}' has no shadow deployment; name a version")
        return self._ended[name] if shadow is None else _report(shadow, running=True)

    def reports(self) -> list[ShadowReport]:
        """The reports of all models that have or had a shadow."""
        running = {name: _report(shadow, running=True) for name, shadow in self._running.items()}
        return [report for _, report in sorted((self._ended | running).items())]

    def _follow(self) -> None:
        for name, shadow in list(self._running.items()):
            version, default = shadow.model.info.version, self._registry.default(name)
            model = self._registry.model(name, version)
            if model is None or default in (None, version):
                self.stop(name)
            elif model is not shadow.model or default != shadow.baseline_version:
                shadow.end()
                assert default is not None
                self._running[name] = Shadow(model, default, shadow.share, shadow.tolerance, self._metrics)
            self._lend(name, self._running.get(name))

    def _lend(self, name: str, shadow: Shadow | None) -> None:
        """Observe the traffic of the default version only."""
        default = self._registry.default(name)
        for version in self._registry.ready_versions(name):
            model = self._registry.model(name, version)
            if model is not None:
                model.observe("shadow", shadow if version == default else None)


def _report(shadow: Shadow, *, running: bool) -> ShadowReport:
    return ShadowReport(
        model=shadow.model.info.name,
        version=shadow.model.info.version,
        baseline_version=shadow.baseline_version,
        running=running,
        share=shadow.share,
        tolerance=shadow.tolerance,
        requests=shadow.requests,
        rows=shadow.rows,
        rows_out_of_tolerance=shadow.rows_out_of_tolerance,
        requests_dropped=shadow.requests_dropped,
        requests_failed=shadow.requests_failed,
        largest_difference=shadow.largest_difference,
    )
