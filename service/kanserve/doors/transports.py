"""Which door: one module each, imported where it is chosen."""

from __future__ import annotations

import importlib.util

from kanserve.config import Settings
from kanserve.doors.door import Door
from kanserve.errors import ConfigError
from kanserve.rpc.services import Services

H2CORN = "h2corn"


def build(settings: Settings, services: Services) -> Door:
    """The door that the settings name; `auto` is asgi where its server is installed. Raises ConfigError."""
    installed = importlib.util.find_spec(H2CORN) is not None
    if settings.transport == "asgi" and not installed:
        raise ConfigError(f"transport asgi needs {H2CORN}: pip install 'kanserve[serve]', or take grpcio")
    if settings.transport != "grpcio" and installed:
        from kanserve.doors.h2corn import H2corn

        return H2corn(settings, services)
    from kanserve.doors.grpcio import Grpcio

    return Grpcio(settings, services)
