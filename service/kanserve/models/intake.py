"""One version on its way in: is there memory, are the bytes those of its manifest, does it compute what it should."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass

from kanserve.backends import Backend
from kanserve.config import Settings
from kanserve.models import headroom
from kanserve.models.aside import aside
from kanserve.models.keeping import Keeping
from kanserve.models.loading import Before, Loader
from kanserve.models.model import Model
from kanserve.models.trial import Trial
from kanserve.observe.metrics import Metrics
from kanserve.repository import layout
from kanserve.repository.layout import Candidate
from kanserve.repository.pbtxt import OperatorConfig


@dataclass(frozen=True, slots=True)
class Held:
    """What a version that serves was made of."""

    content: str
    config: OperatorConfig


class Intake:
    """Makes models; on the event loop, while files and graphs are for threads."""

    def __init__(
        self, settings: Settings, backend: Backend, threads: int, metrics: Metrics, keeping: Keeping | None = None
    ) -> None:
        """`keeping`: where statistics are kept."""
        self._max_file_bytes = settings.max_file_bytes
        self._loader = Loader(backend, settings, threads, metrics, keeping)
        self._trial = Trial(settings)

    async def take(
        self, candidate: Candidate, size: int, like: Before | None, held: Held | None
    ) -> tuple[Model, Held] | None:
        """A model, and what it was made of; None where that is `held` already. `size`: of its files; `like`: what
        serves. Raises LoadError, ConfigError."""
        await asyncio.to_thread(headroom.check, size)
        # Another process parses the version's texts first. Then this process parses exactly the same bytes.
        said = await aside(functools.partial(layout.texts, candidate))
        await self._trial.parsed(said)
        bundle = await aside(functools.partial(layout.load, candidate, self._max_file_bytes, said))
        found = Held(bundle.content, bundle.config)
        if found == held:
            return None
        # A version is tried before it is let in here: whatever it does to a process, it does to another one.
        await self._trial.passed(bundle)
        return await aside(functools.partial(self._loader.load, bundle, like)), found
