"""Import of the packages of tracing, which only the setting `traces` needs."""

from __future__ import annotations

from typing import Any

from kanexport.shared.cli import suggest
from kanserve.errors import ConfigError


def load() -> Any:
    """The module `tracing`, which loads OpenTelemetry. Raises ConfigError if a package is not installed."""
    try:
        from kanserve.observability import tracing
    except ImportError as error:
        raise ConfigError(
            f"traces need the Python package that provides {error.name!r}, which is not installed",
            code="package-not-installed",
            hint=f"{suggest.how_to_install('otel')}, or set traces to false",
        ) from error
    return tracing
