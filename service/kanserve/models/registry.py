"""Registry of all versions, with their states and the lookup by name and version.

All versions are loaded and stay addressable. A request without a version gets the version that a caller or the file
`default` of the repository chose. Without a choice, it gets the highest ready version that is not an edit
(`kanserve edit`) without a release. The registry does not load: `reconciler.py` reports events, and a table maps them
to states. A ready version stays ready while another content of it is loaded, even if that load fails.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kanserve.errors import BadRequest, FailedPrecondition, NotFound, Unavailable
from kanserve.models.model import Model
from kanserve.types import VersionStatus


class State(enum.StrEnum):
    """State of a version with Triton's name, as the index returns it."""

    LOADING = "LOADING"
    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    UNLOADING = "UNLOADING"


class Event(enum.Enum):
    """Event in the lifecycle of a version."""

    FOUND = enum.auto()
    LOADED = enum.auto()
    FAILED = enum.auto()
    CLOSING = enum.auto()
    CLOSED = enum.auto()


TRANSITIONS: dict[tuple[State | None, Event], State] = {
    (None, Event.FOUND): State.LOADING,
    (State.LOADING, Event.LOADED): State.READY,
    (State.LOADING, Event.FAILED): State.UNAVAILABLE,
    (State.UNAVAILABLE, Event.FOUND): State.LOADING,
    (State.READY, Event.LOADED): State.READY,
    (State.READY, Event.FAILED): State.READY,
    (State.READY, Event.CLOSING): State.UNLOADING,
    (State.UNLOADING, Event.FOUND): State.LOADING,
    (State.UNLOADING, Event.CLOSED): State.UNAVAILABLE,
}
VERSION_HINT = "send a number such as 1, or no version for the default version"
UNLOADED = "unloaded"
NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(slots=True)
class Entry:
    """Entry of one version. `model` is set exactly while it is ready; `late`: discovered after the start."""

    name: str
    version: int
    state: State
    reason: str = ""
    model: Model | None = None
    late: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Chosen default version of a model, and the previous default version."""

    version: int
    previous_version: int


SERVING, ALL = "serving", "all"  # values of the setting ready_requires; others are names of models


class Registry:
    """Registry of versions, for use from the event loop only."""

    def __init__(self, *, by_hand: bool = False, required: str = SERVING) -> None:
        """`by_hand`: explicit model control; the server is ready without any loaded model. `required`: the setting
        `ready_requires`."""
        self._by_hand, self._required = by_hand, required
        self._entries: dict[str, dict[int, Entry]] = {}
        self._chosen: dict[str, Choice] = {}
        self.completed = False  # whether the load of every version was attempted
        self._subscribers: list[Callable[[], None]] = []
        self.generation = 0  # changes with any of them
        self._not_ready: tuple[int, str] = -1, ""  # the generation that it holds for, and the reason

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call this after every change of a version's state or model."""
        self._subscribers.append(changed)

    def add_unloaded(self, name: str, version: int) -> None:
        """Add a version that is in the repository and is not requested."""
        if version not in self._entries.get(name, {}):
            entry = Entry(name, version, State.UNAVAILABLE, UNLOADED, late=True)
            self._entries.setdefault(name, {})[version] = entry

    def choose(self, name: str, choice: Choice | None) -> None:
        """Set the default version; None: the highest ready one that is not an edit."""
        self._chosen.pop(name, None)
        if choice is not None:
            self._chosen[name] = choice
        self._changed()

    def choice(self, name: str) -> Choice | None:
        """The chosen default version of a model; None if neither an operator nor the repository has chosen one."""
        return self._chosen.get(name)

    def chosen(self) -> dict[str, int]:
        """The versions that were chosen, by model."""
        return {name: choice.version for name, choice in self._chosen.items()}

    def default(self, name: str) -> int | None:
        """The default version, for requests without a version; None if no version is ready, or only edits are. If the
        chosen one is not ready, it is the previous default version below it, or else the next lower ready one."""
        choice = self._chosen.get(name)
        regular = self.regular_versions(name)
        if choice is not None:
            if self.model(name, choice.version) is not None:
                return choice.version
            before = choice.previous_version
            if before < choice.version and self.model(name, before) is not None:
                return before
            # A higher version is new, or an operator rolled it back. It does not replace a chosen version that fails.
            regular = [version for version in regular if version < choice.version] or regular
        return regular[-1] if regular else None

    def begin_load(self, name: str, version: int) -> None:
        """Register a discovered version whose load begins."""
        if version in self._entries.get(name, {}):
            self._step(name, version, Event.FOUND)
            return
        state = TRANSITIONS[None, Event.FOUND]
        self._entries.setdefault(name, {})[version] = Entry(name, version, state, late=self.completed)
        self._changed()

    def swap_in(self, model: Model) -> Model | None:
        """Swap in a ready version. Returns the previous model, which the caller drains."""
        entry = self._step(model.info.name, model.info.version, Event.LOADED)
        before, entry.model, entry.reason = entry.model, model, ""
        self._changed()
        return before

    def mark_failed(self, name: str, version: int, reason: str) -> None:
        """Register a failed load. If another content serves, it keeps serving."""
        self._step(name, version, Event.FAILED).reason = reason

    def remark(self, name: str, version: int, reason: str) -> None:
        """Set the remark about a serving version; "" clears it."""
        self._entries[name][version].reason = reason

    def retire(self, name: str, version: int) -> Model:
        """Take a ready version out of service. Returns its model, which the caller drains."""
        entry = self._step(name, version, Event.CLOSING)
        model, entry.model, entry.reason = entry.model, None, ""
        assert model is not None
        self._changed()
        return model

    def forget(self, name: str, version: int) -> None:
        """Remove a version that does not serve, also one that disappeared while the loader read it."""
        versions = self._entries.get(name, {})
        if version in versions and versions[version].state is not State.READY:
            del versions[version]
            if not versions:
                del self._entries[name]
            self._changed()

    def complete(self) -> None:
        """Register that the load of every version was attempted."""
        self.completed = True
        self._changed()

    @property
    def ready(self) -> bool:
        """Whether the server has attempted the load of each version, one serves, and `ready_requires` holds."""
        return not self.not_ready_reason

    @property
    def not_ready_reason(self) -> str:
        """The reason why `ready` is false, or "". Probes are frequent and there may be a thousand versions, so the
        registry computes it once after each change."""
        if self._not_ready[0] != self.generation:
            self._not_ready = self.generation, self._missing()
        return self._not_ready[1]

    def _missing(self) -> str:
        if not self.completed:
            return "the server loads the versions of the repository"
        if not (self._by_hand or self.models()):
            return "no version serves" if self._entries else "the repository is empty"
        if self._required == SERVING:
            return ""
        if self._required == ALL:  # a version that arrives after the start does not count
            passing = (State.READY, State.UNLOADING)
            failed = [entry for entry in self.entries() if entry.state not in passing and not entry.late]
            needed = [f"{entry.name} version {entry.version}" for entry in failed]
        else:
            needed = [name for name in self._required.split(",") if not self.ready_versions(name)]
        return f"ready_requires is {self._required}, and {', '.join(needed[:10])} does not serve" if needed else ""

    def known(self, name: str) -> bool:
        """Whether the server found a model of that name, in any state."""
        return name in self._entries

    def state(self, name: str, version: int) -> State | None:
        """The state of a version; None for an unknown one."""
        entry = self._entries.get(name, {}).get(version)
        return None if entry is None else entry.state

    def model(self, name: str, version: int) -> Model | None:
        """The model of a version that is ready."""
        entry = self._entries.get(name, {}).get(version)
        return None if entry is None else entry.model

    def entries(self) -> Iterator[Entry]:
        """All versions, by name and version."""
        for name in sorted(self._entries):
            versions = self._entries[name]
            yield from (versions[version] for version in sorted(versions))

    def models(self) -> list[Model]:
        """The ready models."""
        return [entry.model for entry in self.entries() if entry.model is not None]

    def index(self, *, only_ready: bool) -> list[VersionStatus]:
        """The repository index: every version, with its state and the reason if it is not ready."""
        return [
            VersionStatus(entry.name, entry.version, entry.state.value, entry.reason)
            for entry in self.entries()
            if entry.state is State.READY or not only_ready
        ]

    def ready_versions(self, name: str) -> list[int]:
        """Ready versions of a model, ascending."""
        versions = self._entries.get(name, {})
        return sorted(version for version, entry in versions.items() if entry.model is not None)

    def regular_versions(self, name: str) -> list[int]:
        """Ready versions that may be the default version without a choice, ascending: those that are not edits, and
        released edits."""
        versions = self._entries.get(name, {})
        ready = {version: entry.model.info.manifest for version, entry in versions.items() if entry.model is not None}
        return sorted(version for version, own in ready.items() if own is None or not own.edit or own.edit.released)

    def resolve(self, name: str, version: str) -> Model:
        """The model for a name and a version. Raises NotFound, BadRequest, Unavailable, FailedPrecondition."""
        entry = self.entry(name, version)
        if entry.model is not None:
            return entry.model
        if entry.state is State.UNAVAILABLE and entry.reason != UNLOADED:
            raise FailedPrecondition(
                f"Request for unknown model: '{name}' version {entry.version} failed to load",
                code="model-load-failed",
                hint="see the reason in the repository index; `kanserve models` prints it",
            )
        raise Unavailable(
            f"Request for unknown model: '{name}' version {entry.version} is not at ready state",
            code="model-not-ready",
            hint="send the request again when the version is ready",
        )

    def entry(self, name: str, version: str) -> Entry:
        """The entry for a name and a version, in any state. Raises NotFound, BadRequest, Unavailable.

        Until the server has scanned the repository, it does not know which models exist. So a request for an unknown
        one is Unavailable, and clients repeat it.
        """
        number = parse_version(version)
        versions = self._entries.get(name)
        if versions is None:
            raise unknown_model(name) if self.completed else _not_ready(name)
        if number is not None:
            if number not in versions:
                raise NotFound(
                    f"Request for unknown model: '{name}' version {number} is not found",
                    code="version-unknown",
                    hint="send a version that the repository index lists; `kanserve models` prints it",
                )
            return versions[number]
        default = self.default(name)
        if default is not None:
            return versions[default]
        if not self.completed or any(entry.state is State.LOADING for entry in versions.values()):
            raise _not_ready(name)
        raise NotFound(
            f"Request for unknown model: '{name}' has no available versions",
            code="model-has-no-version",
            hint="its ready versions are edits: set a default version with `kanserve promote NAME VERSION`"
            if self.ready_versions(name)
            else "see the states in the repository index; `kanserve models` prints it",
        )

    def close(self) -> None:
        """Close every model; blocks until running work has ended."""
        for model in self.models():
            name, version = model.info.name, model.info.version
            self._step(name, version, Event.CLOSING).model = None
            model.close()
            self._step(name, version, Event.CLOSED).reason = UNLOADED

    def _step(self, name: str, version: int, event: Event) -> Entry:
        entry = self._entries[name][version]
        entry.state = TRANSITIONS[entry.state, event]
        self._changed()
        return entry

    def _changed(self) -> None:
        self.generation += 1
        for notify in self._subscribers:
            notify()


def _not_ready(name: str) -> Unavailable:
    return Unavailable(
        f"Request for unknown model: '{name}' is not at ready state",
        code="model-not-ready",
        hint="send the request again when the model is ready",
    )


def unknown_model(name: str) -> NotFound:
    """The error for an unknown model, with Triton's text."""
    return NotFound(
        f"Request for unknown model: '{name}' is not found",
        code="model-unknown",
        hint="send a name that the repository index lists; `kanserve models` prints it",
    )


def parse_version(text: str) -> int | None:
    """A version number; None for "", which means the default version. Raises BadRequest with Triton's text."""
    if not text:
        return None
    if not NUMBER.fullmatch(text):
        raise BadRequest(
            f"failed to get model version from specified version string '{text[:64]}' (details: stol), "
            "version should be an integral value > 0",
            code="version-invalid",
            hint=VERSION_HINT,
        )
    if int(text) < 0:
        raise BadRequest(
            f"invalid model version specified '{text}' , version should be an integral value > 0",
            code="version-invalid",
            hint=VERSION_HINT,
        )
    return int(text)
