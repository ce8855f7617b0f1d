"""Building blocks of the settings: sizes and times, value types with their ranges, help groups, and the field function.

`config/settings.py` declares the settings with these.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.config import JsonDict

KIB, MIB, GIB = 2**10, 2**20, 2**30
UNITS = {"kib": KIB, "mib": MIB, "gib": GIB}
LENGTHS = {"ms": 1e-3, "s": 1.0, "min": 60.0}  # of time, in seconds
GRPC_LIMIT = 2**31 - 1  # bytes; gRPC's message length is a signed 32-bit number


def _size(value: Any) -> Any:
    """`"16MiB"` -> 16777216; anything else is left for pydantic to judge."""
    if isinstance(value, str):
        text = value.strip().lower()
        for unit, factor in UNITS.items():
            if text.endswith(unit) and text[: -len(unit)].strip().isdigit():
                return int(text[: -len(unit)]) * factor
    return value


def _seconds(value: Any) -> Any:
    """`"2s"` -> 2.0, `"500ms"` -> 0.5; anything else is left for pydantic to judge."""
    if isinstance(value, str):
        text = value.strip().lower()
        for unit, factor in LENGTHS.items():
            number = text.removesuffix(unit).strip()
            if text.endswith(unit) and number.replace(".", "", 1).isdecimal():
                return float(number) * factor
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
Size = Annotated[int, BeforeValidator(_size), Field(ge=1024, le=GRPC_LIMIT)]
FileSize = Annotated[int, BeforeValidator(_size), Field(ge=1024, le=2**40)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0.001, le=86400)]
Pause = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=86400)]


class Group(enum.StrEnum):
    """Headings of `kanserve serve --help`."""

    ADDRESSES = "addresses"
    TLS = "TLS"
    ACCESS = "access"
    MODELS = "models"
    LIMITS = "limits"
    CONNECTIONS = "connections"
    SHUTDOWN = "shutdown"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class FlagForm:
    """Form of a setting in `kanserve serve --help`: its heading and the name of its value."""

    group: str
    metavar: str


def setting(
    default: Any, description: str, *, group: Group, metavar: str = "", live: bool = False, **checks: Any
) -> Any:
    """A setting with its default, and how its flag is shown. A switch needs no `metavar`. `live`: it may change while
    the server runs, and `App.change` applies it."""
    if "pattern" in checks:  # which pydantic looks for anywhere in a value
        checks["pattern"] = f"^({checks['pattern']})$"
    shown: JsonDict = {"group": group, "metavar": metavar, "live": live}
    return Field(default, description=description, json_schema_extra=shown, **checks)


class SettingFault(ValueError):
    """Fault of one setting, or of several together. `sources.load` turns it into a ConfigError."""

    def __init__(self, text: str, *, code: str, hint: str) -> None:
        super().__init__(text)
        self.code, self.hint = code, hint
