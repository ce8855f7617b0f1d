"""kanserve on Ray, with the extra `ray`.

    kanserve.contrib.ray.fleet    whole servers that Ray places and restarts, behind HAProxy; use it for throughput
    kanserve.contrib.ray:build    a Ray Serve application; use it with other Ray Serve applications

`import ray` in these modules means the package Ray, never this one.
"""

from __future__ import annotations

from typing import Any


def build(args: dict[str, Any]) -> Any:
    """Build the application for `serve.run`, `serve run` and a Serve config file. `args`: those of
    `kanserve.contrib.ray.application.build`. Raises MissingPackage without Ray, and ConfigError for wrong settings."""
    from kanserve.contrib.ray.errors import import_ray

    import_ray("kanserve.contrib.ray:build")
    from kanserve.contrib.ray import application

    return application.build(args)


def add_services(servicer: Any, server: Any) -> None:
    """Register the gRPC methods of kanserve with Ray Serve. Name this function in `grpc_servicer_functions`. Raises
    MissingPackage without Ray."""
    from kanserve.contrib.ray.errors import import_ray

    import_ray("kanserve.contrib.ray.add_services")
    from kanserve.contrib.ray import application

    application.add_services(servicer, server)
