"""From a repository to models that serve: every version found is read, proved and registered.

A version that fails is reported and left out; it never takes the others with it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict

from kanserve.backends import Backend
from kanserve.config import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.models.loading import Loader
from kanserve.models.model import Model
from kanserve.models.registry import Registry
from kanserve.observe import logs
from kanserve.observe.metrics import Metrics
from kanserve.repository import layout
from kanserve.repository.layout import Candidate
from kanserve.version import version

log = logs.get_logger("models")


class Rollout:
    """Fills a registry from the repository that the settings name."""

    def __init__(
        self, settings: Settings, backend: Backend, threads: int, registry: Registry, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._threads = threads
        self._registry = registry
        self._metrics = metrics
        self._warned: set[tuple[str, tuple[str, ...]]] = set()

    async def load(self, stop: asyncio.Event) -> None:
        """Load every version found, one after the other, until `stop`.

        Raises ConfigError for what concerns all: an unreadable repository, a device
        that is not there.
        """
        settings = self._settings
        runtime = self._backend.version()
        self._metrics.number("kanserve_build_info").labels(version(), runtime, settings.device).set(1)
        log.info("starting", runtime=runtime, device=settings.device, threads=self._threads)
        loader = Loader(self._backend, settings, self._threads, self._metrics)
        candidates = layout.scan(settings.repository, plain_onnx=settings.plain_onnx, hard_links=settings.hard_links)
        left_out = layout.left_out(candidates)
        for candidate, policy in left_out.items():
            log.info("left out", model=candidate.name, version=candidate.version, version_policy=policy)
        candidates = [candidate for candidate in candidates if candidate not in left_out]
        for candidate in candidates:
            self._registry.found(candidate.name, candidate.version)
            self._metrics.model(candidate.name, str(candidate.version))
        for candidate in candidates:
            if stop.is_set():
                return
            await self._load(loader, candidate)
        self._registry.complete()
        if not self._registry.ready:
            log.error("not ready", reason="a version failed to load" if candidates else "the repository is empty")

    async def _load(self, loader: Loader, candidate: Candidate) -> None:
        settings = self._settings
        labels = {"model": candidate.name, "version": candidate.version}
        started = time.perf_counter()
        try:
            model = await asyncio.to_thread(lambda: loader.load(layout.load(candidate, settings.max_file_bytes)))
        except LoadError as error:
            self._failed(candidate, error.reason, str(error))
            return
        except ConfigError:
            raise
        except Exception:  # one version must not take the others with it
            log.exception("load failed by a bug", **labels)
            self._failed(candidate, LoadReason.INTERNAL, "internal error; see the server's log")
            return
        seconds = time.perf_counter() - started
        self._registry.loaded(model)
        self._metrics.loaded(model.info.name, str(model.info.version), model.info.digest, seconds)
        manifest = model.info.manifest
        against = {} if manifest is None else {"against": manifest.against}
        way = asdict(model.serving.way)
        log.info("loaded", **labels, seconds=round(seconds, 3), **way, **against)
        self._warn(model)

    def _failed(self, candidate: Candidate, reason: LoadReason, text: str) -> None:
        self._registry.failed(candidate.name, candidate.version, text)
        self._metrics.number("kanserve_model_load_failures_total").labels(reason).inc()
        log.error("load failed", model=candidate.name, version=candidate.version, kind=reason, reason=text)

    def _warn(self, model: Model) -> None:
        info, unused = model.info, model.serving.unused
        if unused and (info.name, unused) not in self._warned:
            self._warned.add((info.name, unused))
            log.warning("config.pbtxt says in part what has no effect here", model=info.name, fields=list(unused))
        needed = info.max_batch_size * sum(tensor.row_bytes for tensor in info.inputs)
        if needed > self._settings.max_request_bytes:
            log.warning(
                "a full batch does not fit a request",
                model=info.name,
                batch_bytes=needed,
                max_request_bytes=self._settings.max_request_bytes,
            )
