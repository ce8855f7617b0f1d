"""Loading one version as the server would, on the CPU, and letting it go: for `kanserve models --load`."""

from __future__ import annotations

from kanserve import backends
from kanserve.config import Settings
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.models.loading import Loader
from kanserve.observe.metrics import Metrics
from kanserve.repository.layout import Bundle, Candidate


def load(candidate: Candidate, bundle: Bundle) -> None:
    """Prepare the graph and run the reference rows. Raises LoadError with what the server would say."""
    settings = Settings(repository=candidate.root)
    try:
        Loader(backends.load(settings.backend), settings, 1, Metrics()).load(bundle)
    except ConfigError as error:
        raise LoadError(LoadReason.RUNTIME, str(error)) from error
