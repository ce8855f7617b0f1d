"""What an operator asks of models while they serve: load, unload, and which version answers by default.

What was carried out here is passed on: where several processes serve, the others do the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from kanserve.errors import BadRequest, KanserveError, NotPossible, Unavailable
from kanserve.handlers.shadow import Report, Shadows
from kanserve.models.registry import Choice, Registry
from kanserve.models.rollout import Rollout
from kanserve.observe import logs
from kanserve.observe.metrics import Metrics

NOT_EXPLICIT = "explicit model load / unload is not allowed if polling is enabled"  # Triton's words
Order = dict[str, Any]  # as it goes to other processes: what is to be done, with which model, and how

log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which version of a model answers by default, and which did before."""

    model: str
    version: int
    before: int


@dataclass(frozen=True, slots=True)
class Relayed:
    """A call that another process has answered. This process names it in its log while it carries out the order."""

    request_id: str
    who: str
    facts: dict[str, object] = field(default_factory=dict)


def _nowhere(order: Order) -> None:
    """Nobody serves beside."""


@dataclass(frozen=True, slots=True)
class Relay:
    """Between those who serve behind one port: `orders` that another one was given, and `pass_on` for one's own."""

    orders: asyncio.Queue[Order] = field(default_factory=asyncio.Queue)
    pass_on: Callable[[Order], None] = _nowhere


@dataclass(frozen=True, slots=True)
class Control:
    """The use cases; one per server."""

    rollout: Rollout
    registry: Registry
    shadows: Shadows
    relay: Relay

    async def load(self, name: str, parameters: Collection[str]) -> None:
        """What lies in the repository under this name, as it is now. Raises what `Rollout.load_by_hand` does, and
        BadRequest for parameters: a caller does not say what a model is."""
        self._check("load", parameters)
        await self.rollout.load_by_hand(name)
        self._pass_on({"do": "load", "model": name})

    async def unload(self, name: str, parameters: Collection[str]) -> None:
        """Its versions take no more requests. Raises NotFound."""
        self._check("unload", set(parameters) - {"unload_dependents"})
        await self.rollout.unload_by_hand(name)
        self._pass_on({"do": "unload", "model": name})

    def promote(self, name: str, version: str) -> Chosen:
        """From now on this version answers requests without one; "": the highest that is ready, as if nobody had
        chosen. The same choice again does not change the target of a rollback. Raises NotFound, NotPossible,
        BadRequest."""
        before, choice = self._default(name), self.registry.choice(name)
        chosen = self._ready(name, version) if version else 0
        if choice is not None and choice.version == chosen:
            before = choice.before
        return self._choose(name, Choice(chosen, before), "promote")

    def rollback(self, name: str) -> Chosen:
        """The version answers that did before the last choice, or where there was none, the one below. Raises
        NotFound, NotPossible."""
        default, choice = self._default(name), self.registry.choice(name)
        lower = [version for version in self.registry.ready_versions(name) if version < default]
        target = choice.before if choice is not None else max(lower, default=0)
        if not target:
            raise NotPossible(f"model '{name}' has no ready version below {default} to go back to")
        return self._choose(name, Choice(self._ready(name, str(target)), default), "rollback")

    def shadow(self, name: str, version: str, share: float, tolerance: float) -> Report:
        """Try a version on the traffic of the one that answers. Raises what `Shadows.start` does."""
        report = self.shadows.start(name, version, share, tolerance)
        order = {"do": "shadow", "model": name, "version": report.version, "share": share, "tolerance": tolerance}
        self._pass_on(order)
        return report

    def unshadow(self, name: str) -> Report:
        """Try none. Raises what `Shadows.report` does."""
        report = self.shadows.report(name)
        self.shadows.stop(name)
        self._pass_on({"do": "shadow", "model": name, "version": 0})
        return self.shadows.report(name) if report.running else report

    def counted_anew(self, name: str, version: int, mark: float) -> None:
        """The statistics of a version were reset here; others do the same."""
        log.info("statistics reset", model=name, version=version)
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
                log.warning("what another worker did failed here", order=order, reason=str(error))

    async def _obey(self, order: Order) -> None:
        name = order["model"]
        if order["do"] == "load":
            await self.rollout.load_by_hand(name)
        elif order["do"] == "unload":
            await self.rollout.unload_by_hand(name)
        elif order["do"] == "reset":
            model = self.registry.model(name, order["version"])
            if model is not None and model.live is not None:
                model.live.reset(order["mark"])
                log.info("statistics reset", model=name, version=order["version"])
        elif order["do"] == "choose":
            self._take(name, Choice(order["version"], order["before"]), order["how"])
        elif order["version"]:
            self.shadows.start(name, str(order["version"]), order["share"], order["tolerance"])
        else:
            self.shadows.stop(name)

    def _choose(self, name: str, choice: Choice, how: str) -> Chosen:
        self._take(name, choice, how)
        order = {"do": "choose", "model": name, "version": choice.version, "before": choice.before, "how": how}
        self._pass_on(order)
        return Chosen(name, self._default(name), choice.before)

    def _take(self, name: str, choice: Choice, how: str) -> None:
        self.registry.choose(name, choice if choice.version else None)
        self.rollout.chosen(name, how, choice.before)

    def _pass_on(self, order: Order) -> None:
        """Pass the order on, together with the call that caused it."""
        call = logs.CALL.get()
        by = {} if call is None else {"request_id": call.request_id, "caller": call.who}
        self.relay.pass_on({**order, "by": by})

    def _default(self, name: str) -> int:
        return self.registry.entry(name, "").version

    def _ready(self, name: str, version: str) -> int:
        entry = self.registry.entry(name, version)
        if entry.model is None:
            raise NotPossible(f"model '{name}' version {entry.version} is not ready, so it cannot answer")
        return entry.version

    def _check(self, what: str, parameters: Collection[str]) -> None:
        if not self.rollout.by_hand:
            raise Unavailable(NOT_EXPLICIT)
        if parameters:
            raise BadRequest(f"unrecognized {what} parameter '{min(parameters)[:64]}'.")


def build(rollout: Rollout, registry: Registry, metrics: Metrics, relay: Relay | None = None) -> Control:
    """For one server; `relay` to those who serve beside, if somebody does."""
    return Control(rollout, registry, Shadows(registry, metrics), relay or Relay())
