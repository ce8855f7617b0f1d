"""Every version that was found, its state, and the lookup by name and version.

All versions are loaded and stay addressable; without a version a request gets
the highest that is ready. Nothing here loads: `rollout.py` reports what
happened and the table says what that means.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from kanserve.errors import BadRequest, NotFound, NotPossible, Unavailable
from kanserve.models.model import Model
from kanserve.nouns import VersionStatus


class State(enum.StrEnum):
    """Triton's words, so that clients and index agree."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    UNLOADING = "UNLOADING"


class Event(enum.Enum):
    """What can happen to a version."""

    FOUND = enum.auto()
    LOADED = enum.auto()
    FAILED = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


TRANSITIONS: dict[tuple[State | None, Event], State] = {
    (None, Event.FOUND): State.LOADING,
    (State.LOADING, Event.LOADED): State.READY,
    (State.LOADING, Event.FAILED): State.UNAVAILABLE,
    (State.READY, Event.CLOSING): State.UNLOADING,
    (State.UNLOADING, Event.CLOSED): State.UNAVAILABLE,
}
NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(slots=True)
class Entry:
    """One version. `model` is there exactly while it is ready."""

    name: str
    version: int
    state: State
    reason: str = ""
    model: Model | None = None


class Registry:
    """Used from the event loop alone."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[int, Entry]] = {}
        self._complete = False
        self.generation = 0  # changes with any of them

    def found(self, name: str, version: int) -> None:
        """A version is there and about to be loaded."""
        self.generation += 1
        state = TRANSITIONS[None, Event.FOUND]
        self._entries.setdefault(name, {})[version] = Entry(name, version, state)

    def loaded(self, model: Model) -> None:
        """A version is ready."""
        entry = self._step(model.info.name, model.info.version, Event.LOADED)
        entry.model = model

    def failed(self, name: str, version: int, reason: str) -> None:
        """A version could not be loaded."""
        self._step(name, version, Event.FAILED).reason = reason

    def complete(self) -> None:
        """Every version was tried."""
        self._complete = True

    @property
    def ready(self) -> bool:
        """Triton's strict readiness: everything was tried and nothing failed."""
        states = {entry.state for entry in self.entries()}
        return self._complete and states == {State.READY}

    def entries(self) -> Iterator[Entry]:
        """All versions, by name and version."""
        for name in sorted(self._entries):
            versions = self._entries[name]
            yield from (versions[version] for version in sorted(versions))

    def models(self) -> list[Model]:
        """The ready ones."""
        return [entry.model for entry in self.entries() if entry.model is not None]

    def index(self, *, only_ready: bool) -> list[VersionStatus]:
        """The repository index."""
        return [
            VersionStatus(entry.name, entry.version, entry.state.value, entry.reason)
            for entry in self.entries()
            if entry.state is State.READY or not only_ready
        ]

    def ready_versions(self, name: str) -> list[int]:
        """Ready versions of a model, ascending."""
        versions = self._entries.get(name, {})
        return sorted(version for version, entry in versions.items() if entry.model is not None)

    def resolve(self, name: str, version: str) -> Model:
        """The model that answers. Raises NotFound, BadRequest, Unavailable, NotPossible."""
        entry = self.entry(name, version)
        if entry.model is not None:
            return entry.model
        if entry.state is State.UNAVAILABLE:
            raise NotPossible(f"Request for unknown model: '{name}' version {entry.version} failed to load")
        raise Unavailable(f"Request for unknown model: '{name}' version {entry.version} is not at ready state")

    def entry(self, name: str, version: str) -> Entry:
        """The version meant, in whatever state. Raises NotFound, BadRequest, Unavailable."""
        wanted = parse_version(version)
        versions = self._entries.get(name)
        if versions is None:
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        if wanted is not None:
            if wanted not in versions:
                raise NotFound(f"Request for unknown model: '{name}' version {wanted} is not found")
            return versions[wanted]
        ready = self.ready_versions(name)
        if ready:
            return versions[ready[-1]]
        if any(entry.state is State.LOADING for entry in versions.values()):
            raise Unavailable(f"Request for unknown model: '{name}' is not at ready state")
        raise NotFound(f"Request for unknown model: '{name}' has no available versions")

    def close(self) -> None:
        """Close every model; blocks until running work has ended."""
        for model in self.models():
            name, version = model.info.name, model.info.version
            self._step(name, version, Event.CLOSING).model = None
            model.close()
            self._step(name, version, Event.CLOSED).reason = "unloaded"

    def _step(self, name: str, version: int, event: Event) -> Entry:
        self.generation += 1
        entry = self._entries[name][version]
        entry.state = TRANSITIONS[entry.state, event]
        return entry


def parse_version(text: str) -> int | None:
    """None for "", the policy's choice. Raises BadRequest in Triton's words."""
    if not text:
        return None
    if not NUMBER.fullmatch(text):
        raise BadRequest(
            f"failed to get model version from specified version string '{text[:64]}' (details: stol), "
            "version should be an integral value > 0"
        )
    if int(text) < 0:
        raise BadRequest(f"invalid model version specified '{text}' , version should be an integral value > 0")
    return int(text)
