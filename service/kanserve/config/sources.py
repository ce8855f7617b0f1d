"""Sources of settings, in this order: flags, environment, a TOML file, defaults.

Every value has its origin, which `kanserve serve --show-config` prints.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, InitSettingsSource

from kanexport.contract import safe_files
from kanexport.contract.cli.suggest import advice
from kanserve.config.settings import ENV_PREFIX, Settings
from kanserve.errors import ConfigError

# Variables of the client commands.
CLIENTS = (
    *("KANSERVE_URL", "KANSERVE_CA", "KANSERVE_CERT", "KANSERVE_KEY", "KANSERVE_SERVER_NAME"),
    *("KANSERVE_TOKEN", "KANSERVE_TOKEN_FILE"),
)
# Variables that Kubernetes sets for every Service: here, for one called kanserve, or kanserve-something.
# A plain KANSERVE_SOMETHING_PORT is Kubernetes' only if it holds a URL: it may be a setting, or a misspelt one.
KUBERNETES = re.compile(
    r"KANSERVE_(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
    r"|KANSERVE_PORT"
)
KUBERNETES_URL = re.compile(r"(?:tcp|udp|sctp)://")
DEFAULT = "default"
LARGEST = 2**20  # bytes of a configuration file
NOTHING: Mapping[str, Any] = types.MappingProxyType({})
PATHS = tuple(
    name for name, field in Settings.model_fields.items() if Path in (field.annotation, *get_args(field.annotation))
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with the origin of each: "flag", "environment", a file name, or "default"."""

    settings: Settings
    origins: Mapping[str, str]

    def summary(self) -> str:
        """Settings by origin in words, except for defaults."""
        by_origin: dict[str, list[str]] = {}
        for name, origin in self.origins.items():
            by_origin.setdefault(origin, []).append(name)
        by_origin.pop(DEFAULT, None)
        return (
            "; ".join(f"from {origin}: {', '.join(names)}" for origin, names in by_origin.items()) or "defaults alone"
        )


def load(flags: Mapping[str, Any], *, config: Path | None = None, without: Mapping[str, Any] = NOTHING) -> Loaded:
    """Merge flags, `KANSERVE_*`, the TOML file and defaults. Raises ConfigError.

    `flags` holds only what was given; `without` stands in for what nobody gave and has no default. A name that is no
    setting is an error wherever it stands; left alone are the client's variables and those that Kubernetes sets for a
    Service called kanserve, such as KANSERVE_PORT.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = [
        (DEFAULT, without),
        (str(config), _read_toml(config) if config else {}),
        ("environment", _read_environment()),
        ("flag", flags),
    ]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, DEFAULT)
    unknown = [(key, origin) for origin, layer in layers for key in layer if key not in Settings.model_fields]
    if unknown:
        raise ConfigError("; ".join(_unknown(key, origin) for key, origin in unknown))
    for origin, layer in layers:
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))
    try:
        return Loaded(Settings(**values), origins)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from error


def _read_environment() -> dict[str, Any]:
    """The settings among the variables. Raises ConfigError for one that nobody knows."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    ours = {name.upper() for name, value in os.environ.items() if _is_ours(name.upper(), value)}
    if unknown := sorted(ours - known):
        candidates = sorted({*known, *CLIENTS})
        problems = (f"{name} in the environment: {advice(name, candidates, prefix=ENV_PREFIX)}" for name in unknown)
        raise ConfigError("; ".join(f"unknown setting {problem}" for problem in problems))
    values = EnvSettingsSource(Settings, env_prefix=ENV_PREFIX, case_sensitive=False)()
    return {key: value for key, value in values.items() if f"{ENV_PREFIX}{key.upper()}" in ours}


def _is_ours(name: str, value: str) -> bool:
    """True if a variable is a setting of the server: neither the client's nor one of Kubernetes."""
    if not name.startswith(ENV_PREFIX) or name in CLIENTS or KUBERNETES.fullmatch(name):
        return False
    return not (name.endswith("_PORT") and KUBERNETES_URL.match(value))


def _read_toml(path: Path) -> dict[str, Any]:
    """The file's keys; relative paths are relative to the file."""
    try:
        text = safe_files.read(path, LARGEST, links=True).decode()
        values = dict(InitSettingsSource(Settings, tomllib.loads(text))())
    except FileNotFoundError as error:
        raise ConfigError(f"configuration file {path} is not there") from error
    except RecursionError:
        raise ConfigError(f"configuration file {path} holds values that are nested too deep for settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from error
    for name in PATHS:
        if isinstance(values.get(name), str):
            values[name] = path.parent / values[name]
    return values


def _unknown(key: str, origin: str) -> str:
    return f"unknown setting {key!r} in {origin}: {advice(key, Settings.model_fields)}"


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Pydantic's findings, one line each, in our words and with the origin."""
    lines = []
    for fault in error.errors(include_url=False):
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:
            lines.append(message)
            continue
        key = str(fault["loc"][0])
        if fault["type"] == "missing":
            lines.append(
                f"{key} is not set: give it as an argument, as {ENV_PREFIX}{key.upper()}, or in a --config file"
            )
        else:
            lines.append(f"{key} = {fault['input']!s} (from {origins[key]}): {message}")
    return "; ".join(lines)
