"""Reconciler from a repository to serving models, at the start and while the server runs.

It takes a snapshot of the repository (`repository.snapshot`), decides the actions (`repository.actions`), and carries
them out. It reads, hashes, loads and verifies a version while the previous one serves, and then swaps it in atomically.
The previous one ends its in-flight requests. A failure is logged once, and does not affect other models. It reports the
bytes and seconds of each load to `models/events.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from kanserve import version
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, FailedPrecondition, LoadError, LoadReason, NotFound, Unavailable, text_and_hint
from kanserve.insight.store import StatisticsStore
from kanserve.models.admission import Admission, LoadedContent, run_detached
from kanserve.models.events import History, ModelEvents, Progress
from kanserve.models.loader import ServingVersion
from kanserve.models.model import RetiredModel
from kanserve.models.registry import Choice, Registry, State, unknown_model
from kanserve.observability import logs
from kanserve.observability.metrics import SYNCHRONIZED, Metrics
from kanserve.repository import pbtxt, snapshot
from kanserve.repository.actions import Action, Known, Step, left_out, plan
from kanserve.repository.layout import Candidate, DefaultFile
from kanserve.repository.pbtxt import VersionPolicy
from kanserve.repository.snapshot import Fingerprint, Key, Scanner, Snapshot, remove_stale_exports
from kanserve.system import resources

REJECTED = "the version loaded before keeps serving, because the files in the repository were rejected: "
MISSING = "its files are missing from the repository; it keeps serving until the server ends"

LOADS = 4  # models that load at the same time: one in this process, others in their load checks

T = TypeVar("T")

log = logs.get_logger("models")


class Reconciler:
    """Reconciler that fills a registry from the repository in the settings. It runs on the event loop, and uses threads
    for files and graphs.

        changed  awaited after each change
        keeping  store of the statistics
    """

    def __init__(
        self,
        settings: Settings,
        threads: int,
        registry: Registry,
        metrics: Metrics,
        changed: Callable[[], Awaitable[None]],
        keeping: StatisticsStore | None = None,
    ) -> None:
        from kanserve.runtime import ort  # here, before the ports open, because it takes long

        self._runtime = ort.version()
        self._settings, self._registry, self._metrics, self._changed = settings, registry, metrics, changed
        self._threads = threads
        self._intake = Admission(settings, threads, metrics, keeping)
        policy = pbtxt.parse(settings.version_policy)
        self._scanner = Scanner(
            settings.repository,
            plain_onnx=settings.plain_onnx,
            hard_links=settings.allow_hard_links,
            policy=policy,
            model_name=settings.model_name,
        )
        self._known: dict[Key, Known] = {}
        self._held: dict[Key, LoadedContent] = {}
        self.history = History()
        self._events = ModelEvents(metrics, settings.max_request_bytes, self.history)
        self._defaults: dict[str, DefaultFile] = {}  # by model, the file `default` that was read last
        self._farewells: set[asyncio.Task[None]] = set()
        self.by_hand = settings.model_control == "explicit"
        self._poll = 0.0 if self.by_hand else settings.repository_poll_seconds
        names = set(filter(None, settings.load_model.split(",")))
        self._asked = names if self.by_hand and names != {"*"} else None  # models; None: all
        self._there: set[Key] = set()
        self._turn = asyncio.Lock()
        self._begun = False
        self._took = 0.0

    async def load(self, stop: asyncio.Event) -> None:
        """Load every version found, until `stop`.

        Raises ConfigError if no version can load: for an unreadable repository, or a missing device.
        """
        device = self._settings.device
        build = (version.version(), version.commit(), self._runtime, device)
        self._metrics.number("kanserve_build_info").labels(*build).set(1)
        log.info("runtime_selected", runtime=self._runtime, device=device, threads=self._threads)
        for left in await run_detached(lambda: remove_stale_exports(self._settings.repository)):
            log.info("stale_export_removed", left=left, reason="an export was killed")
        scan = await self._scan()
        await self._carry_out(scan, time.monotonic(), stop)
        if stop.is_set():
            return
        self._registry.complete()
        self._begun = True

    async def watch(self, rescan: asyncio.Event) -> None:
        """Scan at the interval of the settings and whenever `rescan` is set, until cancelled."""
        while True:
            forced = await snapshot.due(rescan, snapshot.pause(self._poll, self._took))
            async with self._turn:
                with contextlib.suppress(LoadError):  # a bug, which is in the log; the next scan continues
                    await _contained(self._scan_and_act(math.inf if forced else time.monotonic()), {})

    async def _scan_and_act(self, now: float) -> None:
        try:
            scan = await self._scan()
        except ConfigError as error:
            self._events.unreadable(error)
            return
        self._events.readable()
        await self._carry_out(scan, now, asyncio.Event())

    async def load_by_hand(self, name: str) -> None:
        """Load all versions of a model that its policy selects, from the current files. Raises NotFound,
        FailedPrecondition, and Unavailable for an unreadable repository."""
        async with self._turn:
            with resources.quick_switches():
                try:
                    scan = await self._scan()
                except ConfigError as error:
                    raise Unavailable(
                        f"failed to load '{name}', the repository cannot be read",
                        code="repository-not-readable",
                        hint="restore the repository, then send the request again",
                    ) from error
                if not any(key[0] == name for key in scan.candidates):
                    raise _no_version(name)
                if self._asked is not None:
                    self._asked.add(name)
                await self._carry_out(scan.only({name}), math.inf, asyncio.Event(), {name})
        failed = [
            f"version {version}: {self._registry.entry(name, str(version)).reason}"
            for (model, version), known in sorted(self._known.items())
            if model == name and known.refused
        ]
        if failed:
            raise FailedPrecondition(
                f"failed to load '{name}', {'; '.join(failed)}",
                code="model-load-failed",
                hint="correct the files of the version, then load the model again",
            )
        if not self._registry.ready_versions(name):
            raise _no_version(name)

    async def unload_by_hand(self, name: str) -> None:
        """Unload a model after its in-flight requests. Raises NotFound."""
        async with self._turn:
            keys = [key for key in self._known if key[0] == name]
            if not keys and not any(key[0] == name for key in self._there):
                raise unknown_model(name)
            if self._asked is None:
                self._asked = {key[0] for key in (*self._known, *self._there)}
            self._asked.discard(name)
            for key in keys:
                if self._known[key].serves:
                    self._leave(key)
                else:
                    await self._take(Step.FORGET, key, Snapshot({}, {}, {}))
            await self._changed()

    def chosen(self, name: str, how: str, before: int) -> None:
        """Record that a caller or the repository chose the default version. `how`: promote, rollback or file; `before`:
        the default version before."""
        default = self._registry.default(name)
        self._events.chosen(name, default, self._registry.ready_versions(name))
        stays = self._registry.choice(name) is not None
        log.info("default_version_changed", model=name, version=default, before=before, how=how, by_hand=stays)

    async def _scan(self) -> Snapshot:
        """The snapshot of the repository. Models that are not requested get only an index entry."""
        started = time.perf_counter()
        try:
            scan = await asyncio.to_thread(self._scanner.scan)
        finally:
            self._took = time.perf_counter() - started
            self._metrics.number("kanserve_repository_scan_seconds").labels().set(self._took)
        if self._poll:  # otherwise the time would be that of the start, and the age of a synchronization would grow
            self._metrics.number(SYNCHRONIZED).labels().set(scan.synchronized)
        if self.by_hand:
            for key in self._there - scan.candidates.keys() - self._known.keys():
                self._registry.forget(*key)
            self._there = set(scan.candidates)
            for key in scan.candidates:
                self._registry.add_unloaded(*key)
        return scan

    async def _carry_out(
        self, scan: Snapshot, now: float, stop: asyncio.Event, names: Collection[str] | None = None
    ) -> None:
        """Carry out the actions for a snapshot, until `stop`. `names`: only of these models; None: of all requested
        ones."""
        generation = self._registry.generation
        names = self._asked if names is None else names
        before = self._follow_files(scan)
        scan = scan.only(names)
        actions = await self._plan(scan, now, names)
        await self._take_all(actions, scan, stop)
        if stop.is_set():
            return
        if actions:  # unload the versions that the loaded ones replace, and update the default versions
            for action in await self._plan(scan, -math.inf, names):
                if action.step is Step.LEAVE:
                    self._leave(action.key)
            for name in sorted({key[0] for key in self._known}):
                self._events.chosen(name, self._registry.default(name), self._registry.ready_versions(name))
        for name, previous in before.items():
            default = self._registry.default(name)
            if default is not None:
                self.chosen(name, "file", previous)
                if name in self._defaults and self._defaults[name].version != default:
                    named = self._defaults[name].version
                    log.error("default_version_not_ready", model=name, version=named, default=default)
        if self._begun and generation != self._registry.generation:
            self._metrics.number("kanserve_repository_change_timestamp_seconds").labels().set(time.time())
            await self._changed()

    def _follow_files(self, scan: Snapshot) -> dict[str, int]:
        """Choose the default versions of changed files `default`. An invalid file changes nothing, and neither do
        missing files of a whole model. Returns the default versions before, by model; 0: none."""
        self._events.default_files({name: own for name, own in scan.defaults.items() if isinstance(own, LoadError)})
        before: dict[str, int] = {}
        for name in sorted(scan.policies.keys() & (scan.defaults.keys() | self._defaults.keys())):
            file = scan.defaults.get(name)
            if isinstance(file, LoadError) or file == self._defaults.get(name):
                continue
            before[name] = self._registry.default(name) or 0
            if file is None:
                del self._defaults[name]
                self._registry.choose(name, None)
            else:
                self._defaults[name] = file
                known = before[name] if before[name] != file.version else 0
                self._registry.choose(name, Choice(file.version, file.previous_version or known))
        return before

    # radon: registration, then the actions of several models.
    async def _take_all(self, actions: Sequence[Action], scan: Snapshot, stop: asyncio.Event) -> None:
        """Take the actions of a few models at the same time, those of one model one after the other, until `stop`. The
        log shows the progress of the loads."""
        loads = [action.key for action in actions if action.step is Step.LOAD]
        for key in loads:  # register them, unless they serve already
            if key not in self._known:
                self._known[key] = Known()
                self._metrics.expect(key[0], str(key[1]))
            if self._registry.state(*key) in (None, State.UNAVAILABLE, State.UNLOADING):
                self._registry.begin_load(*key)
        if loads and not self._begun:
            log.info("models_loading", versions=len(loads))
        models = iter([list(own) for _, own in itertools.groupby(actions, lambda action: action.key[0])])

        async def work() -> None:
            for own in models:
                for action in own:
                    if stop.is_set():
                        return
                    with progress.of(action.key) if action.step is Step.LOAD else contextlib.nullcontext():
                        await self._take(action.step, action.key, scan)

        # One model at a time if `max_models` may reject some, so that the first ones serve.
        served = {key[0] for key, entry in self._known.items() if entry.serves}
        at_once = LOADS if len(served.union(key[0] for key in loads)) <= self._settings.max_models else 1
        progress = Progress(len(loads))
        reporting = asyncio.create_task(progress.log_every())
        try:
            with resources.quick_switches() if loads else contextlib.nullcontext():
                async with asyncio.TaskGroup() as group:
                    for _ in range(at_once):
                        group.create_task(work())
        except ExceptionGroup as errors:  # the first error has ended all of them
            raise errors.exceptions[0] from None
        finally:
            reporting.cancel()

    async def _plan(self, scan: Snapshot, now: float, names: Collection[str] | None) -> list[Action]:
        """Decide the actions, on a thread because there may be thousands of versions."""
        known = {key: entry for key, entry in self._known.items() if names is None or key[0] in names}
        chosen = self._registry.chosen()

        def decide() -> tuple[dict[Key, VersionPolicy], list[Action]]:
            left = left_out(scan.prints, known, scan.policies)
            return left, plan(scan.prints, known, scan.policies, now, chosen)

        left, actions = await asyncio.to_thread(decide)
        self._events.left_out(left)
        return actions

    async def _take(self, step: Step, key: Key, scan: Snapshot) -> None:
        if step in (Step.MISS, Step.RETURN):
            gone = step is Step.MISS
            self._known[key] = replace(self._known[key], missing=gone)
            self._registry.remark(*key, MISSING if gone else "")
            self._events.missed(key, gone=gone)
        if step in (Step.LOAD, Step.RETURN):
            await self._load(key, scan.candidates[key], scan.prints[key])
        elif step is Step.LEAVE:
            self._leave(key)
        elif step is Step.FORGET:
            del self._known[key]
            self._registry.forget(*key)
            self._events.forgotten(key)

    async def _load(self, key: Key, candidate: Candidate, fingerprint: Fingerprint) -> None:
        """Load one version, and record a failure."""
        if fingerprint.growing and self._begun and self._poll:
            return  # the next scan sees whether it is complete
        started = time.perf_counter()
        try:
            self._admit(key[0])
            work = self._intake.take(candidate, fingerprint.size, self._before(key), self._held.get(key))
            taken = await _contained(work, {"model": key[0], "version": key[1]})
        except LoadError as error:
            await self._failed(key, candidate, fingerprint, error)
        except ConfigError as error:
            if not self._begun:
                raise
            failure = LoadError(LoadReason.RUNTIME, str(error), code=error.code, hint=error.hint)
            await self._failed(key, candidate, fingerprint, failure)
        else:
            refused = self._known[key].refused
            self._known[key] = self._known[key].accepted(fingerprint)
            if taken is not None:  # requests use it from now on
                model, self._held[key] = taken
                before = self._registry.swap_in(model)
                seconds = time.perf_counter() - started
                self._events.loaded(model, seconds, fingerprint.size, "" if before is None else before.info.digest)
                if before is not None:
                    self._see_off(before.leave())
            elif refused:  # the files are again those of the serving version
                self._registry.remark(*key, "")
                self._events.recovered(key)

    def _admit(self, name: str) -> None:
        """Raises LoadError if the server has `max_models` already."""
        served = {key[0] for key, entry in self._known.items() if entry.serves}
        if name not in served and len(served) >= self._settings.max_models:
            raise LoadError(
                LoadReason.LIMIT,
                f"the server has {len(served)} models, which is the limit max_models",
                code="too-many-models",
                hint="raise max_models, or remove models from the repository",
            )

    def _before(self, key: Key) -> ServingVersion | None:
        """The model that serves under this version, or else the highest serving version of that name."""
        name, version = key
        ready = self._registry.ready_versions(name)
        like = (name, version if version in ready else max(ready, default=0))
        if like not in self._held:
            return None
        model = self._registry.resolve(name, str(like[1]))
        return ServingVersion(model.info, model.serving.plan, self._held[like].config)

    async def _failed(self, key: Key, candidate: Candidate, fingerprint: Fingerprint, error: LoadError) -> None:
        known = self._known[key]
        now = await asyncio.to_thread(self._scanner.fingerprint, candidate)
        if self._poll and (now is None or now.facts != fingerprint.facts):
            return  # it was written meanwhile: the next scan reads it again
        self._known[key] = known.failed(fingerprint, time.monotonic())
        reason = text_and_hint(error)
        if known.serves:
            self._registry.remark(*key, REJECTED + reason)
        else:
            self._registry.mark_failed(*key, reason)
            self._metrics.expect(key[0], str(key[1]))
        self._events.rejected(key, error, changed=not known.same(fingerprint), serves=known.serves)

    def _leave(self, key: Key) -> None:
        del self._known[key]
        del self._held[key]
        self._see_off(self._registry.retire(*key).leave())

    def _see_off(self, left: RetiredModel) -> None:
        """Drain and free a model in the background, and forget a version that has no successor."""

        async def unload() -> None:
            seconds = await drain_and_free(left)
            if self._registry.state(left.name, left.version) is State.UNLOADING:
                self._registry.forget(left.name, left.version)
                self._events.forgotten((left.name, left.version), seconds)
                if (left.name, left.version) in self._there:
                    self._registry.add_unloaded(left.name, left.version)

        task = asyncio.create_task(unload())
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


async def _contained(work: Awaitable[T], facts: Mapping[str, object]) -> T:
    """The result of the work. An unexpected error becomes a LoadError, which is logged with these facts and does not
    affect other work."""
    try:
        return await work
    except (LoadError, ConfigError):
        raise
    except Exception as error:
        log.exception("repository_sync_crashed", **facts)
        raise LoadError(
            LoadReason.INTERNAL, "internal error", code="internal-error", hint="see the server's log for the cause"
        ) from error


def _no_version(name: str) -> NotFound:
    return NotFound(
        f"failed to load '{name}', no version is available",
        code="model-has-no-version",
        hint="copy a version of the model into the repository, or correct the name",
    )


SOONEST, LATEST = 0.01, 0.5  # seconds between two checks whether requests still use it
LONG = 60.0  # seconds of use after which a line is logged


async def drain_and_free(left: RetiredModel) -> float:
    """Wait until no request uses the model, and free its memory. Returns the seconds that this took."""
    begun, pause, logged = time.monotonic(), SOONEST, False
    while any(user() is not None for user in left.users):
        await asyncio.sleep(pause)
        pause = min(2 * pause, LATEST)
        if not logged and time.monotonic() - begun > LONG:
            logged = True
            log.warning("model_unload_delayed", model=left.name, version=left.version)
            resources.thaw()
    await asyncio.to_thread(left.parts.clear)
    await asyncio.to_thread(resources.trim)
    return time.monotonic() - begun
