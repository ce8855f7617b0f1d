"""From a repository to models that serve, at the start and for as long as the server runs.

What lies in the repository is looked at (`repository.look`), what is to be done is decided (`repository.plan`), and
carried out here: a version is read, hashed, loaded beside the one that serves, proved, and put in its place in one
step; what was there before ends what it has in flight. Whatever fails is told once, and disturbs nobody.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from kanserve.backends import Backend
from kanserve.config import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.models import farewell, headroom
from kanserve.models.aside import aside
from kanserve.models.loading import Before, Loader
from kanserve.models.model import Leaving, Model
from kanserve.models.registry import Registry, State
from kanserve.models.tidings import Tidings
from kanserve.models.trial import Trial
from kanserve.observe import logs
from kanserve.observe.metrics import Metrics
from kanserve.repository import layout, versions, watch
from kanserve.repository.layout import Bundle, Candidate
from kanserve.repository.look import Key, Look, Looker, Print
from kanserve.repository.pbtxt import OperatorConfig
from kanserve.repository.plan import Action, Known, Step, left_out, plan
from kanserve.version import version as own_version

REFUSED = "what lies in the repository now was refused, and what was loaded before serves: "
MISSING = "it is not in the repository any more, and serves until the server ends"

log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class Held:
    """What a version that serves was made of."""

    content: str
    config: OperatorConfig


class Rollout:
    """Fills a registry from the repository that the settings name. On the event loop; files and graphs are for
    threads. `changed` is awaited after each change."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        threads: int,
        registry: Registry,
        metrics: Metrics,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings, self._registry, self._metrics, self._changed = settings, registry, metrics, changed
        self._runtime, self._threads = backend.version(), threads
        self._loader = Loader(backend, settings, threads, metrics)
        self._trial = Trial(settings)
        policy = versions.parse(settings.version_policy)
        self._looker = Looker(
            settings.repository, plain_onnx=settings.plain_onnx, hard_links=settings.hard_links, policy=policy
        )
        self._known: dict[Key, Known] = {}
        self._held: dict[Key, Held] = {}
        self._tidings = Tidings(metrics, settings.max_request_bytes)
        self._farewells: set[asyncio.Task[None]] = set()
        self._begun = False
        self._took = 0.0

    async def load(self, stop: asyncio.Event) -> None:
        """Load every version found, one after the other, until `stop`.

        Raises ConfigError for what concerns all: an unreadable repository, a device
        that is not there.
        """
        device = self._settings.device
        self._metrics.number("kanserve_build_info").labels(own_version(), self._runtime, device).set(1)
        log.info("starting", runtime=self._runtime, device=device, threads=self._threads)
        look = await self._look()
        await self._carry_out(look, time.monotonic(), stop)
        if stop.is_set():
            return
        self._registry.complete()
        self._begun = True
        if not self._registry.ready:
            log.error("not ready", reason="a version failed to load" if look.prints else "the repository is empty")

    async def watch(self, asked: asyncio.Event) -> None:
        """Look again and again, as often as the settings say and whenever `asked`, until cancelled."""
        never = asyncio.Event()
        while True:
            forced = await watch.due(asked, watch.pause(self._settings.poll, self._took))
            try:
                look = await self._look()
            except ConfigError as error:
                self._tidings.readable(str(error))
            else:
                self._tidings.readable("")
                await self._carry_out(look, math.inf if forced else time.monotonic(), never)

    async def _look(self) -> Look:
        started = time.perf_counter()
        try:
            return await asyncio.to_thread(self._looker.look)
        finally:
            self._took = time.perf_counter() - started
            self._metrics.number("kanserve_repository_look_seconds").labels().set(self._took)

    async def _carry_out(self, look: Look, now: float, stop: asyncio.Event) -> None:
        """What is to be done about what was seen, until `stop`."""
        generation = self._registry.generation
        actions = await self._plan(look, now)
        for action in actions:
            if action.step is Step.LOAD:
                self._announce(action.key)
        for action in actions:
            if stop.is_set():
                return
            await self._take(action.step, action.key, look)
        for action in await self._plan(look, -math.inf) if actions else ():
            if action.step is Step.LEAVE:  # for what has just been loaded
                await self._take(action.step, action.key, look)
        if self._begun and generation != self._registry.generation:
            self._metrics.number("kanserve_repository_change_timestamp_seconds").labels().set(time.time())
            await self._changed()

    async def _plan(self, look: Look, now: float) -> list[Action]:
        """On a thread: there may be thousands of versions."""
        known = dict(self._known)
        left = await asyncio.to_thread(left_out, look.prints, known, look.policies)
        self._tidings.left_out(left)
        return await asyncio.to_thread(plan, look.prints, known, look.policies, now)

    async def _take(self, step: Step, key: Key, look: Look) -> None:
        if step in (Step.MISS, Step.RETURN):
            self._miss(key, gone=step is Step.MISS)
        if step in (Step.LOAD, Step.RETURN):
            await self._load(key, look.candidates[key], look.prints[key])
        elif step is Step.LEAVE:
            self._leave(key)
        elif step is Step.FORGET:
            del self._known[key]
            self._registry.forget(*key)
            self._tidings.forgotten(key)

    def _announce(self, key: Key) -> None:
        """It is there, and will be loaded unless it serves already."""
        if key not in self._known:
            self._known[key] = Known()
            self._metrics.model(key[0], str(key[1]))
        if self._registry.state(*key) in (None, State.UNAVAILABLE, State.UNLOADING):
            self._registry.found(*key)

    async def _load(self, key: Key, candidate: Candidate, seen: Print) -> None:
        """One version, whatever comes of it."""
        if seen.growing and self._begun:
            return  # the next look sees whether it is whole
        started = time.perf_counter()
        try:
            bundle = await self._read(candidate, seen)
            if key in self._held and self._held[key].content == bundle.content:
                self._same(key, seen)
                return
            # A version is tried before it is let in here: whatever it does to a process, it does to another one.
            await self._trial.passed(bundle)
            model = await aside(functools.partial(self._loader.load, bundle, self._before(key)))
        except LoadError as error:
            await self._failed(key, candidate, seen, error.reason, str(error))
        except ConfigError as error:
            if not self._begun:
                raise
            await self._failed(key, candidate, seen, LoadReason.RUNTIME, str(error))
        except Exception:  # one version must not take the others with it
            log.exception("load failed by a bug", model=key[0], version=key[1])
            await self._failed(key, candidate, seen, LoadReason.INTERNAL, "internal error; see the server's log")
        else:
            self._known[key] = self._known[key].accepted(seen)
            self._held[key] = Held(bundle.content, bundle.config)
            self._switch(key, model, time.perf_counter() - started)

    async def _read(self, candidate: Candidate, seen: Print) -> Bundle:
        await asyncio.to_thread(headroom.check, seen.size)
        return await aside(lambda: layout.load(candidate, self._settings.max_file_bytes))

    def _before(self, key: Key) -> Before | None:
        """What serves under this version, else under the highest of the model."""
        name, version = key
        ready = self._registry.ready_versions(name)
        like = (name, version if version in ready else max(ready, default=0))
        if like not in self._held:
            return None
        model = self._registry.resolve(name, str(like[1]))
        return Before(model.info, model.serving.way, self._held[like].config)

    def _switch(self, key: Key, model: Model, seconds: float) -> None:
        """From here on requests get this one."""
        before = self._registry.loaded(model)
        self._tidings.loaded(model, seconds, before.info.digest if before is not None else "")
        if before is not None:
            self._see_off(before.leave())

    def _same(self, key: Key, seen: Print) -> None:
        """The files were touched, or are again what serves."""
        refused = self._known[key].refused
        self._known[key] = self._known[key].accepted(seen)
        if refused:
            self._registry.remark(*key, "")
            self._tidings.again(key)

    async def _failed(self, key: Key, candidate: Candidate, seen: Print, reason: LoadReason, text: str) -> None:
        known = self._known[key]
        now = await asyncio.to_thread(self._looker.again, candidate)
        if self._settings.poll and (now is None or now.facts != seen.facts):
            return  # it was written meanwhile, and says nothing yet: the next look sees it
        self._known[key] = known.failed(seen, time.monotonic())
        if known.serves:
            self._registry.remark(*key, REFUSED + text)
        else:
            self._registry.failed(*key, text)
        self._tidings.refused(key, reason, text, changed=not known.same(seen), serves=known.serves)

    def _miss(self, key: Key, *, gone: bool) -> None:
        self._known[key] = replace(self._known[key], missing=gone)
        self._registry.remark(*key, MISSING if gone else "")
        self._tidings.missed(key, gone=gone)

    def _leave(self, key: Key) -> None:
        del self._known[key]
        del self._held[key]
        self._see_off(self._registry.leaving(*key).leave())

    def _see_off(self, left: Leaving) -> None:
        """In the background; a version that has no successor is then forgotten."""
        task = asyncio.create_task(self._gone(left))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _gone(self, left: Leaving) -> None:
        seconds = await farewell.see_off(left)
        if self._registry.state(left.name, left.version) is State.UNLOADING:
            self._registry.forget(left.name, left.version)
            self._tidings.forgotten((left.name, left.version), seconds)
