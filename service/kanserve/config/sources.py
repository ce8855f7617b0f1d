"""Sources of settings, in this order: flags, environment, a TOML file, defaults.

Every value has its origin, which `kanserve serve --show-config` prints.
"""

from __future__ import annotations

import os
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, InitSettingsSource

from kanexport.shared import safe_files
from kanexport.shared.cli.suggest import closest
from kanserve.config.fields import SettingFault
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
        return "; ".join(f"from {origin}: {', '.join(names)}" for origin, names in by_origin.items()) or "defaults only"


def load(flags: Mapping[str, Any], *, config: Path | None = None, without: Mapping[str, Any] = NOTHING) -> Loaded:
    """Merge flags, `KANSERVE_*`, the TOML file and defaults. Raises ConfigError.

    `flags` has only the flags that were given. `without` has the values of settings that have no default and no source.
    A name that is not a setting is an error in each source. Variables of the client commands, and those that Kubernetes
    sets for a Service named kanserve, such as KANSERVE_PORT, are ignored.
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
        raise _unknown([(repr(key), origin, closest(key, Settings.model_fields)) for key, origin in unknown])
    for origin, layer in layers:
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))
    try:
        return Loaded(Settings(**values), origins)
    except ValidationError as error:
        faults = [_fault(fault, origins) for fault in error.errors(include_url=False)]
        raise ConfigError("; ".join(map(str, faults)), code=faults[0].code, hint=faults[0].hint) from error


def _read_environment() -> dict[str, Any]:
    """The settings among the variables. Raises ConfigError for an unknown one."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    relevant = set()
    for name, value in ((name.upper(), value) for name, value in os.environ.items()):
        of_kubernetes = KUBERNETES.fullmatch(name) or (name.endswith("_PORT") and KUBERNETES_URL.match(value))
        if name.startswith(ENV_PREFIX) and name not in CLIENTS and not of_kubernetes:
            relevant.add(name)
    if unknown := sorted(relevant - known):
        candidates = {name.removeprefix(ENV_PREFIX): name for name in sorted({*known, *CLIENTS})}
        suggestions = ((name, closest(name.removeprefix(ENV_PREFIX), candidates)) for name in unknown)
        raise _unknown([(name, "the environment", candidates.get(near, "")) for name, near in suggestions])
    values = EnvSettingsSource(Settings, env_prefix=ENV_PREFIX, case_sensitive=False)()
    return {key: value for key, value in values.items() if f"{ENV_PREFIX}{key.upper()}" in relevant}


def _read_toml(path: Path) -> dict[str, Any]:
    """The file's keys; relative paths are relative to the file."""
    try:
        text = safe_files.read(path, LARGEST, links=True).decode()
        values = dict(InitSettingsSource(Settings, tomllib.loads(text))())
    except FileNotFoundError as error:
        raise ConfigError(
            f"configuration file {path} does not exist",
            code="config-file-not-found",
            hint="pass an existing file with --config FILE.toml",
        ) from error
    except RecursionError:
        raise ConfigError(
            f"configuration file {path} has values that are nested too deep",
            code="config-file-nested-too-deep",
            hint="write each setting as NAME = VALUE, without tables",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"configuration file {path} is not TOML: {error}",
            code="config-file-not-toml",
            hint="correct the file at the named line",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"configuration file {path} cannot be read: {error.strerror or error}",
            code="config-file-unreadable",
            hint="pass a regular file that the server's user may read",
        ) from error
    for name in PATHS:
        if isinstance(values.get(name), str):
            values[name] = path.parent / values[name]
    return values


def _unknown(names: Sequence[tuple[str, str, str]]) -> ConfigError:
    """The error for names that are not settings: each with its origin and the nearest setting, or ""."""
    nearest = [near for _, _, near in names if near]
    return ConfigError(
        "; ".join(f"unknown setting {name} in {origin}" for name, origin, _ in names),
        code="setting-unknown",
        hint=f"did you mean {' and '.join(map(repr, nearest))}?"
        if nearest
        else "run 'kanserve serve --help' for a list",
    )


def _fault(fault: ErrorDetails, origins: Mapping[str, str]) -> ConfigError:
    message = fault["msg"].removeprefix("Value error, ")
    key = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "missing":
        return ConfigError(
            f"{key} is not set",
            code="setting-missing",
            hint=f"pass it as an argument, as {ENV_PREFIX}{key.upper()}, or in the file of --config",
        )
    named = f"{key} = {fault['input']!s} (from {origins[key]}): {message}" if key else message
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, SettingFault):
        return ConfigError(named, code=cause.code, hint=cause.hint)
    return ConfigError(
        named, code="setting-invalid", hint=f"set {key} to a value of its range in docs/reference/settings.md"
    )
