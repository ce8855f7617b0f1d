"""Use cases of model control: readiness, statistics, the repository index, default versions and shadow deployments."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from kanserve.errors import BadRequest, FailedPrecondition, KanserveError, NotFound, Unavailable, log_facts
from kanserve.models.model import Model
from kanserve.models.reconciler import Reconciler
from kanserve.models.registry import Choice, Entry, Registry, State
from kanserve.models.shadow import Shadow
from kanserve.observability import logs
from kanserve.observability.metrics import Metrics
from kanserve.system.lifecycle import Lifecycle
from kanserve.types import ModelInfo


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Use cases that read the state of the server; one object per server."""

    registry: Registry
    lifecycle: Lifecycle

    def live(self) -> bool:
        """True until the process begins to exit, or hangs."""
        return not (self.lifecycle.closed or self.lifecycle.stuck)

    def ready(self) -> bool:
        """True if the versions that readiness needs serve, and the server is not shutting down."""
        return self.registry.ready and self.lifecycle.accepting

    def model_ready(self, name: str, version: str) -> bool:
        """Whether a version is ready; False for an unknown version. Raises BadRequest."""
        try:
            entry = self.registry.entry(name, version)
        except (NotFound, Unavailable):
            return False
        return entry.state is State.READY and self.lifecycle.accepting

    def info(self, name: str, version: str) -> tuple[ModelInfo, list[int]]:
        """A version, and all ready versions of its model. Raises the errors of `Registry.resolve`."""
        model = self.registry.resolve(name, version)
        return model.info, self.registry.ready_versions(name)

    def statistics(self, name: str, version: str) -> list[Model]:
        """The models of a statistics request: one version, one name, or all.

        Raises BadRequest with Triton's text, which is not NotFound for statistics.
        """
        if not name:
            return self.registry.models()
        versions = [model for model in self.registry.models() if model.info.name == name]
        if not versions:
            raise BadRequest(
                f"requested model '{name}' is not available",
                code="model-unknown",
                hint="send a name that the repository index lists; `kanserve models` prints it",
            )
        if not version:
            return versions
        try:
            entry: Entry | None = self.registry.entry(name, version)
        except NotFound:
            entry = None
        if entry is None or entry.model is None:
            raise BadRequest(
                f"requested model version is not available for model '{name}'",
                code="version-unknown",
                hint="send a version that the repository index lists; `kanserve models` prints it",
            )
        return [entry.model]


NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"  # Triton's text
Order = dict[str, Any]  # as sent to other processes: the action, the model, and the details

log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class Relayed:
    """Call that another worker has handled. This worker names it in its log while it carries out the order."""

    request_id: str
    caller_name: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerBus:
    """Channel between the workers behind one port. `orders` has the orders of other workers, `pass_on` sends one. The
    defaults are those of a server with one worker."""

    orders: asyncio.Queue[Order] = field(default_factory=asyncio.Queue)
    pass_on: Callable[[Order], None] = lambda order: None


@dataclass(frozen=True, slots=True)
class Control:
    """Use cases that change models; one object per server."""

    reconciler: Reconciler
    registry: Registry
    shadows: Shadows
    relay: WorkerBus

    async def load(self, name: str, parameters: Collection[str]) -> None:
        """Load the current files of a model from the repository. Raises the errors of `Reconciler.load_by_hand`, and
        BadRequest for parameters, because a client cannot define a model."""
        self._check("load", parameters)
        await self.reconciler.load_by_hand(name)
        self._pass_on({"do": "load", "model": name})

    async def unload(self, name: str, parameters: Collection[str]) -> None:
        """Unload all versions of a model. Raises NotFound."""
        self._check("unload", set(parameters) - {"unload_dependents"})
        await self.reconciler.unload_by_hand(name)
        self._pass_on({"do": "unload", "model": name})

    def promote(self, name: str, version: str) -> Choice:
        """Set the default version of a model; "": the highest ready one that is not an edit. The same choice again does
        not change the target of a rollback. Raises NotFound, FailedPrecondition, BadRequest."""
        choice = self.registry.choice(name)
        before = self._default(name) if not version else self.registry.default(name) or 0
        chosen = self._ready(name, version) if version else 0
        if choice is not None and choice.version == chosen:
            before = choice.previous_version
        return self._choose(name, Choice(chosen, before), "promote")

    def rollback(self, name: str) -> Choice:
        """Restore the default version before the last choice. If there was no choice, the next lower ready version that
        is not an edit.
        Raises NotFound, FailedPrecondition."""
        default, choice = self._default(name), self.registry.choice(name)
        lower = [version for version in self.registry.regular_versions(name) if version < default]
        target = (choice.previous_version if choice is not None else 0) or max(lower, default=0)
        if not target:
            raise FailedPrecondition(
                f"model '{name}' has no ready version below {default}",
                code="no-version-to-roll-back-to",
                hint="set a default version by its number: `kanserve promote NAME VERSION`",
            )
        return self._choose(name, Choice(self._ready(name, str(target)), default), "rollback")

    def shadow(self, name: str, version: str, share: float, tolerance: float) -> ShadowReport:
        """Start a shadow deployment of a version. Raises the errors of `Shadows.start`."""
        report = self.shadows.start(name, version, share, tolerance)
        order = {"do": "shadow", "model": name, "version": report.version, "share": share, "tolerance": tolerance}
        self._pass_on(order)
        return report

    def unshadow(self, name: str) -> ShadowReport:
        """End the shadow deployment of a model. Raises the errors of `Shadows.report`."""
        report = self.shadows.report(name)
        self.shadows.stop(name)
        self._pass_on({"do": "shadow", "model": name, "version": 0})
        return self.shadows.report(name) if report.running else report

    def counted_anew(self, name: str, version: int, mark: float) -> None:
        """Have the other workers reset the statistics of a version, which this worker has reset."""
        log.info("statistics_reset", model=name, version=version)
        self._pass_on({"do": "reset", "model": name, "version": version, "mark": mark})

    async def listen(self, *, until_done: bool = False) -> None:
        """Carry out the orders of other workers, until cancelled; with `until_done`, until no order waits."""
        while not (until_done and self.relay.orders.empty()):
            order = await self.relay.orders.get()
            by = order.get("by")
            logs.CALL.set(Relayed(by["request_id"], by["caller"]) if by else None)
            try:
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
            except KanserveError as error:
                log.warning("worker_sync_failed", order=order, reason=str(error), **log_facts(error))

    def _choose(self, name: str, choice: Choice, how: str) -> Choice:
        self._take(name, choice, how)
        self._pass_on({"do": "choose", "model": name, "how": how, **asdict(choice)})
        return Choice(self._default(name), choice.previous_version)

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
            raise FailedPrecondition(
                f"model '{name}' version {entry.version} is not ready",
                code="model-not-ready",
                hint="choose a ready version; `kanserve models` prints the states",
            )
        return entry.version

    def _check(self, what: str, parameters: Collection[str]) -> None:
        if not self.reconciler.by_hand:
            raise Unavailable(
                NOT_EXPLICIT,
                code="model-control-not-explicit",
                hint="start the server with --model-control explicit",
            )
        if parameters:
            raise BadRequest(
                f"unrecognized {what} parameter '{min(parameters)[:64]}'.",
                code="parameter-unknown",
                hint="send the request without parameters",
            )


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
    rows_with_other_class: int | None


class Shadows:
    """Registry of shadow deployments, at most one per model. If a version changes, its shadow starts again. If it is
    unloaded or becomes the default version, its shadow ends."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self._registry, self._metrics = registry, metrics
        self._running: dict[str, Shadow] = {}
        self._ended: dict[str, ShadowReport] = {}
        registry.subscribe(self._follow)

    def start(self, name: str, version: str, share: float, tolerance: float) -> ShadowReport:
        """Start a shadow deployment, in place of an earlier one of the model. `share` 0: all requests; `tolerance` 0:
        the tolerance of its export. Raises NotFound, FailedPrecondition, BadRequest."""
        if not (0 <= share <= 1 and 0 <= tolerance < float("inf")):
            raise BadRequest(
                f"share is {share:g}, expected 0 to 1; tolerance is {tolerance:g}, expected 0 or more",
                code="shadow-options-invalid",
                hint="send 0 for the default of each",
            )
        model, default = self._registry.resolve(name, version), self._registry.default(name)
        if default is None or default == model.info.version:
            raise FailedPrecondition(
                f"version {model.info.version} of model '{name}' is the default version, expected another version",
                code="shadow-of-default-version",
                hint="choose another version, or set another default version first",
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
        """End the shadow deployment of a model, and keep its results."""
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
            raise FailedPrecondition(
                f"model '{name}' has no shadow deployment",
                code="shadow-not-running",
                hint="start one: `kanserve shadow NAME VERSION`",
            )
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
    info = shadow.model.info
    own: dict[str, Any] = {"model": info.name, "version": info.version, "running": running}
    names = [item.name for item in fields(ShadowReport) if item.name not in own]
    return ShadowReport(**own, **{name: getattr(shadow, name) for name in names})
