"""Which door: one module each, imported where it is chosen."""

from __future__ import annotations

import importlib.util

from kanserve.config import Settings
from kanserve.doors.door import Door
from kanserve.errors import ConfigError
from kanserve.rpc.services import Services

H2CORN = "h2corn"


def build(settings: Settings, services: Services) -> Door:
    """The door that is named; `auto` is grpcio, until the other has stood the same attacks. Raises ConfigError."""
    if settings.transport == "asgi":
        if importlib.util.find_spec(H2CORN) is None:
            raise ConfigError(f"transport asgi needs {H2CORN}: pip install 'kanserve[serve]', or take grpcio")
        from kanserve.doors.h2corn import H2corn

        return H2corn(settings, services)
    from kanserve.doors.grpcio import Grpcio

    return Grpcio(settings, services)
