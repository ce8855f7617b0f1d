"""kanserve on Ray, with the extra `ray`.

    kanserve.contrib.ray.fleet    whole servers that Ray places and restarts, behind HAProxy; use it for throughput
    kanserve.contrib.ray:build    a Ray Serve application; use it with other Ray Serve applications

`import ray` in these modules means the package Ray, never this one.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from kanexport.shared.cli.console import Exit, Failure
from kanexport.shared.cli.suggest import MissingPackage, how_to_install


def build(args: dict[str, Any]) -> Any:
    """Build the application for `serve.run`, `serve run` and a Serve config file. `args`: those of
    `kanserve.contrib.ray.application.build`. Raises MissingPackage without Ray, and ConfigError for wrong settings."""
    import_ray("kanserve.contrib.ray:build")
    from kanserve.contrib.ray import application

    return application.build(args)


def add_services(servicer: Any, server: Any) -> None:
    """Register the gRPC methods of kanserve with Ray Serve. Name this function in `grpc_servicer_functions`. Raises
    MissingPackage without Ray."""
    import_ray("kanserve.contrib.ray.add_services")
    from kanserve.contrib.ray import application

    application.add_services(servicer, server)


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
