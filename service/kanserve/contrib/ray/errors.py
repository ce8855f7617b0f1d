"""Error of a fleet, and the import of Ray."""

from __future__ import annotations

import importlib
from types import ModuleType

from kanexport.shared.cli.console import Exit, Failure
from kanexport.shared.cli.suggest import MissingPackage, how_to_install


class FleetError(Failure):
    """A server, HAProxy or Ray does not do what the fleet needs."""

    exit_code = Exit.FAILED


def import_ray(part: str) -> ModuleType:
    """The package Ray. Raises MissingPackage without it. `part`: the module that needs it."""
    try:
        import ray.exceptions  # noqa: F401 - Ray imports it only at its first error
    except ModuleNotFoundError as error:
        package = (error.name or "ray").partition(".")[0]
        raise MissingPackage(
            f"{part} needs the Python package that provides {package!r}, which is not installed",
            code="package-not-installed",
            hint=how_to_install("ray"),
        ) from error
    return importlib.import_module("ray")
