"""Admission of one version: memory check, integrity check, load check and load."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from kanexport.shared import manifest as manifests
from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.insight.store import StatisticsStore
from kanserve.models import loader, tuning
from kanserve.models.loader import Loader, ServingVersion
from kanserve.models.model import Model
from kanserve.observability import logs
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.repository.layout import Bundle, Candidate, Texts
from kanserve.repository.pbtxt import OperatorConfig
from kanserve.repository.validation import check_manifest
from kanserve.runtime.base import SessionOptions
from kanserve.sandbox import job
from kanserve.sandbox.job import Job
from kanserve.sandbox.pool import SandboxClient, VersionCheck
from kanserve.system import resources

log = logs.get_logger("models")


@dataclass(frozen=True, slots=True)
class LoadedContent:
    """Identity of the content that a serving version was loaded from."""

    content: str
    config: OperatorConfig


class Admission:
    """Loader of versions with all checks. It runs on the event loop, and uses threads for files and graphs."""

    def __init__(
        self,
        settings: Settings,
        threads: int,
        metrics: Metrics,
        keeping: StatisticsStore | None = None,
    ) -> None:
        """`keeping`: where statistics are kept."""
        self._max_file_bytes = settings.max_file_bytes
        self._loader = Loader(settings, threads, metrics, keeping)
        self._sandbox = Sandbox(settings)
        self._here = asyncio.Lock()  # of the work in this process: a measurement must not run next to another load
        self._large = asyncio.Lock()

    async def take(
        self, candidate: Candidate, size: int, current: ServingVersion | None, loaded: LoadedContent | None
    ) -> tuple[Model, LoadedContent] | None:
        """A loaded model and its content; None if its content is `loaded` already. `size`: bytes of its files;
        `current`: the serving version. Raises LoadError, ConfigError."""
        async with self._large if size > LARGE else contextlib.nullcontext():
            async with self._sandbox.check(size) as check:
                bundle = await self._checked(candidate, size, check, loaded)
            if bundle is None:
                return None
            async with self._here:
                model = await run_detached(functools.partial(self._loader.load, bundle, current))
        if bundle.ignored:
            names = list(bundle.ignored[:SHOWN])
            log.info("model_files_ignored", model=bundle.name, version=bundle.version, files=names)
        return model, LoadedContent(bundle.content, bundle.config)

    async def _checked(
        self, candidate: Candidate, size: int, check: VersionSandbox, loaded: LoadedContent | None
    ) -> Bundle | None:
        """The bytes of a version that passed its load check; None if its content is `loaded` already. Each change of
        the thread waits for the event loop, so there are few."""

        def read() -> Texts:
            resources.check(size)
            return layout.texts(candidate)

        def load() -> tuple[Bundle, Job | None]:
            bundle = layout.load(candidate, self._max_file_bytes, texts)
            return bundle, check.prepared(bundle)

        # Another process parses the version's texts first. Then this process parses exactly the same bytes.
        texts = await run_detached(read)
        await check.parse(texts)
        async with self._here:
            bundle, job = await run_detached(load)
        if LoadedContent(bundle.content, bundle.config) == loaded:
            return None
        # The load check runs before this process loads a version, so that a harmful version affects another process.
        await check.run(job, bundle)
        return bundle


SHOWN = 8  # names of files in a log line
LARGE = 2**25  # bytes of files; of larger versions, one loads at a time, because of its memory
THREADS = 1  # of the runs of a load check
PACE = (
    2**24
)  # bytes of files for which a load check may take one second more; ten times that is usual on an idle machine


class Sandbox:
    """Load checks of a version in another process, as the settings require."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asker = SandboxClient()

    async def validate(self, bundle: Bundle) -> None:
        """Wait until a version has passed its load check. Raises what `VersionSandbox` raises. A cancellation stops
        the other process."""
        async with self.check(0) as check:
            await check.run(await asyncio.to_thread(check.prepared, bundle), bundle)

    @contextlib.asynccontextmanager
    async def check(self, size: int) -> AsyncIterator[VersionSandbox]:
        """Context of the load check of one version with `size` bytes of files; 0 if it has one part."""
        async with self._asker.check() as check:
            yield VersionSandbox(self._settings, check, size)

    def close(self) -> None:
        """End the process of the load checks."""
        self._asker.close()


class VersionSandbox:
    """Load check of one version in its process, as the settings require."""

    def __init__(self, settings: Settings, check: VersionCheck, size: int) -> None:
        self._settings, self._check, self._size, self._parsed = settings, check, size, False

    async def parse(self, texts: Texts) -> None:
        """Wait until the process has parsed the texts of the version. Raises what `run` does."""
        if self._settings.load_check:
            await self._check.run(replace(self._job(None, texts), texts=True), texts)
            self._parsed = True

    async def run(self, job: Job | None, bundle: Bundle) -> None:
        """Wait until the version has passed its load check. Raises LoadError with the reason of a failure, and
        ConfigError for a device that does not exist."""
        if job is not None:
            await self._check.run(job, _checked_files(bundle))

    def prepared(self, bundle: Bundle) -> Job | None:
        """The job of a version whose manifest is valid; None without load checks. Raises LoadError."""
        if bundle.manifest is not None:
            check_manifest(bundle.manifest)
        return self._job(bundle, _checked_files(bundle)) if self._settings.load_check else None

    def _job(self, bundle: Bundle | None, files: Mapping[str, bytes]) -> Job:
        settings, manifest = self._settings, None if bundle is None else bundle.manifest
        library, free = "" if bundle is None else loader.library_for(bundle, settings), resources.available()
        return Job(
            options=SessionOptions(settings.device, THREADS, library),
            strict=settings.graph_allowlist == "strict",
            rows=tuning.tried_rows(manifest),
            seconds=settings.load_timeout + sum(map(len, files.values())) / PACE,
            memory=min(settings.load_memory_bytes, settings.load_memory_bytes if free is None else free),
            files={name: len(data) for name, data in files.items()},
            manifest=None if manifest is None or self._parsed else manifests.dumps(job.stripped(manifest)).decode(),
            parsed=self._parsed,
            size=self._size,
        )


def _checked_files(bundle: Bundle) -> dict[str, bytes]:
    """The files that the load check runs or parses. The server does not parse the network file."""
    return {name: data for name, data in bundle.files.items() if name != manifests.NETWORK_FILE}


@functools.cache
def _usual(root: Path) -> Sandbox:
    return Sandbox(Settings(repository=root))


def load(candidate: Candidate, bundle: Bundle) -> None:
    """Load check for `kanserve models --load`, on the CPU with the default settings. Raises LoadError with the text
    that the server would log."""
    try:
        asyncio.run(_usual(candidate.root).validate(bundle))
    except ConfigError as error:
        raise LoadError(LoadReason.RUNTIME, str(error), code=error.code, hint=error.hint) from error


T = TypeVar("T")
_running: set[Future[Any]] = set()


def unfinished() -> bool:
    """Whether detached work is still running. The interpreter would wait for it at exit; `os._exit` does not."""
    return bool(_running)


async def run_detached(work: Callable[[], T]) -> T:
    """The result of `work`, which runs on its own thread. After a cancellation the thread ends on its own, and its
    result is lost. The end of the event loop does not wait for it, in contrast to `asyncio.to_thread`."""
    own = ThreadPoolExecutor(1, thread_name_prefix="aside", initializer=resources.usual_slice)
    future = own.submit(work)
    own.shutdown(wait=False)
    _running.add(future)
    future.add_done_callback(_running.discard)
    return await asyncio.wrap_future(future)
