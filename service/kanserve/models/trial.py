"""A version is tried in a process of its own before it is let in: `await trial.passed(bundle)`.

Structure, load, reference rows, edges and a batch: what it does to a process, it does to that one.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from kanserve.config import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.models import kernel, measure
from kanserve.repository.check import check_manifest
from kanserve.repository.layout import Bundle, Candidate, Texts
from kanserve.trials import job
from kanserve.trials.asking import Asker
from kanserve.trials.job import Job

THREADS = 1  # of the runs of a trial
PACE = 2**24  # bytes of files for which a trial may take one second more; ten times that is usual on an idle machine


class Trial:
    """What versions must pass, by the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._asker = Asker(settings.backend)

    async def parsed(self, found: Texts) -> None:
        """Wait until another process has parsed the texts of a version. Raises what `passed` does."""
        if self._settings.trial:
            files = found.files()
            await self._asker.ask(replace(self._job(None, files), texts=True), files)

    async def passed(self, bundle: Bundle) -> None:
        """Until it has. Raises LoadError with the reason why it has not, ConfigError for a device that is not there.
        Cancelled, it leaves nothing running."""
        if bundle.manifest is not None:
            await asyncio.to_thread(check_manifest, bundle.manifest)
        if self._settings.trial:
            job = await asyncio.to_thread(self._job, bundle, bundle.files)
            await self._asker.ask(job, bundle.files)

    def close(self) -> None:
        """Let the process go that versions are tried in."""
        self._asker.close()

    def _job(self, bundle: Bundle | None, files: Mapping[str, bytes]) -> Job:
        settings, manifest = self._settings, None if bundle is None else bundle.manifest
        return Job(
            backend=settings.backend,
            device=settings.device,
            threads=THREADS,
            strict=settings.graph_screen == "strict",
            rows=measure.tried_rows(manifest, settings.plain_max_batch, settings.piece_bytes),
            seconds=settings.load_timeout + sum(map(len, files.values())) / PACE,
            memory=settings.load_memory,
            files={name: len(data) for name, data in files.items()},
            manifest=None if manifest is None else job.slim(manifest),
            library="" if bundle is None else kernel.library_for(bundle, settings),
        )


@functools.cache
def _usual(root: Path) -> Trial:
    return Trial(Settings(repository=root))


def load(candidate: Candidate, bundle: Bundle) -> None:
    """For `kanserve models --load`: try it on the CPU, by the default settings. Raises LoadError with what the server
    would say."""
    try:
        asyncio.run(_usual(candidate.root).passed(bundle))
    except ConfigError as error:
        raise LoadError(LoadReason.RUNTIME, str(error)) from error
