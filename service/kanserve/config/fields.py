"""Building blocks of the settings: sizes and times, value types with their ranges, help groups, and the field function.

`config/settings.py` declares the settings with these.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BeforeValidator, Field
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

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


# The text is the metavar.
Port = Annotated[int, Field(ge=0, le=65535), "PORT"]
Size = Annotated[int, BeforeValidator(_size), Field(ge=1024, le=GRPC_LIMIT), "BYTES"]
FileSize = Annotated[int, BeforeValidator(_size), Field(ge=1024, le=2**40), "BYTES"]
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


def setting(group: Group, default: Any, *, metavar: str = "", live: bool = False, **checks: Any) -> Any:
    """A setting under a heading of the help, with its default; the string after it is its description. `metavar`: as in
    `metavar`, if the type does not say it. `live`: it may change while the server runs, and `App.change` applies it."""
    if "pattern" in checks:  # which pydantic looks for anywhere in a value
        checks["pattern"] = f"^({checks['pattern']})$"
    shown: JsonDict = {"group": group, "metavar": metavar, "live": live}
    return Field(default, json_schema_extra=shown, **checks)


def shown(field: FieldInfo) -> JsonDict:
    """The group of a setting, its metavar if its type does not say it, and whether it is live."""
    facts = field.json_schema_extra
    return facts if isinstance(facts, dict) else {"group": "", "metavar": "FOLDER", "live": False}


def metavar(field: FieldInfo) -> str:
    """The name of a setting's value in the help, which is also its unit; "" for a switch."""
    named = str(shown(field)["metavar"]) or next((text for text in field.metadata if isinstance(text, str)), "")
    if named or field.annotation is bool:
        return named
    if get_origin(field.annotation) is Literal:
        return "|".join(get_args(field.annotation))
    return "N" if field.annotation is int else "SECONDS" if field.annotation is float else "FILE"


class SettingFault(ValueError):
    """Fault of one setting, or of several together. `sources.load` turns it into a ConfigError."""

    def __init__(self, text: str, *, code: str, hint: str) -> None:
        super().__init__(text)
        self.code, self.hint = code, hint
