"""Settings of the server: flags, environment, a TOML file, defaults, in this order.

Every value knows its origin, so that `kanserve serve --show-config` can say
why a setting is what it is.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from kanserve.errors import ConfigError

ENV_PREFIX = "KANSERVE_"
MIB = 2**20
UNITS = {"kib": 2**10, "mib": 2**20, "gib": 2**30}
GRPC_LIMIT = 2**31 - 1  # bytes; gRPC's message length is a signed 32-bit number


def _size(value: Any) -> Any:
    """`"16MiB"` -> 16777216; anything else is left for pydantic to judge."""
    if isinstance(value, str):
        text = value.strip().lower()
        for unit, factor in UNITS.items():
            if text.endswith(unit) and text[: -len(unit)].strip().isdigit():
                return int(text[: -len(unit)]) * factor
    return value


Port = Annotated[int, Field(ge=0, le=65535)]
Size = Annotated[int, BeforeValidator(_size), Field(ge=1024, le=GRPC_LIMIT)]


class Settings(BaseSettings):
    """One frozen value per server process. Build it with `load`, or directly in tests."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    repository: Path = Field(description="folder of models: NAME/VERSION/model.onnx")
    host: str = Field("127.0.0.1", description="address of the gRPC port")
    grpc_port: Port = Field(8001, description="0: any free port")
    metrics_host: str = Field("127.0.0.1", description="address of the metrics port")
    metrics_port: Port = Field(8002, description="0: any free port")
    device: Literal["cpu", "cuda"] = Field("cpu", description="where graphs run; never a silent fallback")
    threads: int = Field(0, ge=0, le=1024, description="0: what the cgroup grants")
    plain_onnx: bool = Field(False, description="also serve model.onnx without a manifest, without edge queries")
    reflection: bool = Field(False, description="gRPC reflection")
    insecure: bool = Field(False, description="allow a gRPC address that other machines reach")
    max_request_bytes: Size = Field(4 * MIB, description="larger requests are refused")
    max_response_bytes: Size = Field(16 * MIB, description="larger answers are refused before they are computed")
    max_query_rows: int = Field(4096, ge=1, description="rows of one edge query")
    drain_delay: float = Field(5.0, ge=0, le=600, description="seconds between not ready and closing, on SIGTERM")
    drain_grace: float = Field(25.0, ge=0, le=600, description="seconds that requests in flight may take after it")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line written")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given: `load` merges the sources, to know the origins."""
        return (init_settings,)

    @field_validator("repository")
    @classmethod
    def _repository_is_a_folder(cls, value: Path) -> Path:
        if not value.is_dir():
            raise ValueError(
                f"{value} is not a folder; `kanserve export CHECKPOINT --repository {value} --name NAME` makes one"
            )
        return value

    @model_validator(mode="after")
    def _reachable_only_on_purpose(self) -> Settings:
        if not self.insecure and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host} is reachable from other machines, and this server has neither TLS nor "
                "authentication yet: keep 127.0.0.1 and put a proxy with TLS in front, or, on a network "
                "where everyone may query the models, say so with insecure = true (--insecure)"
            )
        return self


# NOTE: the metrics address has no such rule: it is read-only, holds no tensor
# contents, and exists to be scraped from another machine.
def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each came from: "flag", "environment", a file name, or "default"."""

    settings: Settings
    origins: Mapping[str, str]


def load(flags: Mapping[str, Any], *, config: Path | None = None) -> Loaded:
    """Merge flags, `KANSERVE_*`, the TOML file and defaults. Raises ConfigError.

    `flags` holds only what was given. A key of the environment that is not a
    setting is ignored (Kubernetes sets KANSERVE_PORT for a service of that
    name); in the file and in `flags` it is an error.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("default", {}),
        (str(config), _read_toml(config) if config else {}),
        ("environment", _read_environment()),
        ("flag", flags),
    ]
    values: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for origin, layer in layers:
        for key, value in layer.items():
            if key not in Settings.model_fields:
                raise ConfigError(_unknown(key, origin))
            values[key] = value
            origins[key] = origin
    try:
        return Loaded(Settings(**values), origins)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from error


def _read_environment() -> dict[str, Any]:
    found = EnvSettingsSource(Settings, env_prefix=ENV_PREFIX, case_sensitive=False)()
    return {key: value for key, value in found.items() if key in Settings.model_fields}


def _read_toml(path: Path) -> dict[str, Any]:
    """The file's keys; a relative `repository` is relative to the file."""
    if not path.is_file():
        raise ConfigError(f"configuration file {path} is not there")
    try:
        found = dict(TomlConfigSettingsSource(Settings, toml_file=path)())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path} is not TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error.strerror}") from error
    if isinstance(found.get("repository"), str):
        found["repository"] = path.parent / found["repository"]
    return found


def _unknown(key: str, origin: str) -> str:
    close = difflib.get_close_matches(key.replace("-", "_"), Settings.model_fields, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(Settings.model_fields)}"
    return f"unknown setting {key!r} in {origin}: {hint}"


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Pydantic's findings, one line each, in our words and with the origin."""
    lines = []
    for found in error.errors(include_url=False):
        message = found["msg"].removeprefix("Value error, ")
        if not found["loc"]:
            lines.append(message)
            continue
        key = str(found["loc"][0])
        if found["type"] == "missing":
            lines.append(
                f"{key} is not set: give it as an argument, as {ENV_PREFIX}{key.upper()}, or in a --config file"
            )
        else:
            lines.append(f"{key} = {found['input']!s} (from {origins[key]}): {message}")
    return "; ".join(lines)
