"""What the server is and holds: readiness, models, statistics, the index."""

from __future__ import annotations

from dataclasses import dataclass

from kanserve.errors import BadRequest, NotFound, Unavailable
from kanserve.lifecycle import Lifecycle
from kanserve.models.model import Model
from kanserve.models.registry import Entry, Registry, State
from kanserve.nouns import ModelInfo, VersionStatus


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The use cases; one per server."""

    registry: Registry
    lifecycle: Lifecycle

    def live(self) -> bool:
        """The process answers and means to go on doing so."""
        return not (self.lifecycle.closed or self.lifecycle.stuck)

    def ready(self) -> bool:
        """Everything that was found is loaded, and the server is not on its way out."""
        return self.registry.ready and self.lifecycle.willing

    def model_ready(self, name: str, version: str) -> bool:
        """Whether a version can be used now, which one that is not there cannot. Raises BadRequest."""
        try:
            entry = self.registry.entry(name, version)
        except (NotFound, Unavailable):
            return False
        return entry.state is State.READY and self.lifecycle.willing

    def info(self, name: str, version: str) -> tuple[ModelInfo, list[int]]:
        """A version, and all ready versions of its model. Raises what `Registry.resolve` does."""
        model = self.registry.resolve(name, version)
        return model.info, self.registry.ready_versions(name)

    def model(self, name: str, version: str) -> Model:
        """A version that can be used. Raises what `Registry.resolve` does."""
        return self.registry.resolve(name, version)

    def statistics(self, name: str, version: str) -> list[Model]:
        """The models whose statistics are meant: one version, one name, or all.

        Raises BadRequest in Triton's words; for statistics it is not NotFound.
        """
        if not name:
            return self.registry.models()
        versions = [model for model in self.registry.models() if model.info.name == name]
        if not versions:
            raise BadRequest(f"requested model '{name}' is not available")
        if not version:
            return versions
        try:
            entry: Entry | None = self.registry.entry(name, version)
        except NotFound:
            entry = None
        if entry is None or entry.model is None:
            raise BadRequest(f"requested model version is not available for model '{name}'")
        return [entry.model]

    def index(self, *, only_ready: bool) -> list[VersionStatus]:
        """Every version that was found, with its state and what is wrong with it."""
        return self.registry.index(only_ready=only_ready)
