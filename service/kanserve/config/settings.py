"""Every setting of the server and every limit: what it means, its default, what it may be.

Where values come from is the business of `config/sources.py`: flags, environment, a TOML file.
"""

from __future__ import annotations

import enum
import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENV_PREFIX = "KANSERVE_"
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
    """The headings of `kanserve serve --help`."""

    ADDRESSES = "addresses"
    TLS = "TLS"
    ACCESS = "access"
    MODELS = "models"
    LIMITS = "limits"
    CONNECTIONS = "connections"
    LEAVING = "leaving"
    LOGS = "logs"


@dataclass(frozen=True, slots=True)
class FlagForm:
    """How `kanserve serve --help` shows a setting: under which heading, and what its value is called."""

    group: str
    metavar: str


def setting(
    default: Any, description: str, *, group: Group, metavar: str = "", live: bool = False, **checks: Any
) -> Any:
    """A setting with its default, and how its flag is shown. A switch needs no `metavar`. `live`: it may change while
    the server runs, and `App.change` takes it over."""
    if "pattern" in checks:  # which pydantic looks for anywhere in a value
        checks["pattern"] = f"^({checks['pattern']})$"
    shown: JsonDict = {"group": group, "metavar": metavar, "live": live}
    return Field(default, description=description, json_schema_extra=shown, **checks)


class Settings(BaseSettings):
    """One frozen value per server process. Build it with `sources.load`, or directly in tests.

    Every limit that an operator may want to set is here; what is fixed by the protocol is
    a constant where it binds.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    repository: Path = Field(description="folder of models: NAME/VERSION/model.onnx")
    host: str = setting("127.0.0.1", "address of the gRPC port", group=Group.ADDRESSES, metavar="ADDRESS")
    grpc_port: Port = setting(8001, "0: any free port", group=Group.ADDRESSES, metavar="PORT")
    transport: Literal["auto", "asgi", "grpcio"] = setting(
        "auto",
        "auto: asgi where h2corn is installed, else grpcio",
        group=Group.ADDRESSES,
        metavar="auto|asgi|grpcio",
    )
    http_port: int | None = setting(
        None,
        "one more port for HTTP; 0: any free port",
        group=Group.ADDRESSES,
        metavar="PORT",
        ge=0,
        le=65535,
    )
    metrics_host: str = setting("127.0.0.1", "address of the metrics port", group=Group.ADDRESSES, metavar="ADDRESS")
    metrics_port: Port = setting(8002, "0: any free port", group=Group.ADDRESSES, metavar="PORT")
    insecure: bool = setting(
        False, "allow an address that other machines reach without a certificate of theirs", group=Group.ADDRESSES
    )
    workers: int = setting(
        1,
        "processes behind the port, each with its share of the threads",
        group=Group.ADDRESSES,
        metavar="N",
        ge=1,
        le=256,
    )
    reflection: bool = setting(False, "gRPC reflection", group=Group.ADDRESSES)

    tls_cert: Path | None = setting(
        None, "the server's certificate, and what signed it, as PEM", group=Group.TLS, metavar="FILE"
    )
    tls_key: Path | None = setting(None, "its private key as PEM, without a password", group=Group.TLS, metavar="FILE")
    tls_client_ca: Path | None = setting(
        None, "callers must show a certificate that one of these signed", group=Group.TLS, metavar="FILE"
    )

    renew_seconds: Seconds = setting(
        10.0,
        "between two looks at certificates and the file of tokens; a changed token file is seen in a twentieth of it",
        group=Group.ACCESS,
        metavar="SECONDS",
        live=True,
    )
    tokens: Path | None = setting(
        None,
        "who may call: a file of tokens and certificates, see `kanserve token`",
        group=Group.ACCESS,
        metavar="FILE",
    )

    backend: str = setting("ort", "what runs the graphs: ort is ONNX Runtime", group=Group.MODELS, metavar="NAME")
    device: Literal["cpu", "cuda"] = setting(
        "cpu", "where graphs run; never a silent fallback", group=Group.MODELS, metavar="cpu|cuda"
    )
    threads: int = setting(0, "0: what the cgroup grants", group=Group.MODELS, metavar="N", ge=0, le=1024)
    plain_onnx: bool = setting(
        False, "also serve model.onnx without a manifest, without edge queries", group=Group.MODELS
    )
    plain_max_batch: Count = setting(
        1024, "rows of one request to a model without a manifest", group=Group.MODELS, metavar="N"
    )
    max_file_bytes: FileSize = setting(
        2**30, "larger files of a model are refused", group=Group.MODELS, metavar="BYTES"
    )
    hard_links: bool = setting(
        False,
        "files of a model may have other names elsewhere, as some images and stores make them",
        group=Group.MODELS,
    )
    trial: bool = setting(
        True, "versions are tried in a process of their own before they are loaded", group=Group.MODELS
    )
    load_timeout: Seconds = setting(
        60.0, "for a version while it is tried, and one more for each 16 MiB", group=Group.MODELS, metavar="SECONDS"
    )
    load_memory: FileSize = setting(
        4 * 2**30,
        "that a version may take while it is tried, beside four times its files",
        group=Group.MODELS,
        metavar="BYTES",
    )
    graph_screen: Literal["strict", "relaxed"] = setting(
        "strict",
        "strict: graphs of known operators alone; relaxed: also loops, functions and other domains",
        group=Group.MODELS,
        metavar="strict|relaxed",
    )
    kernel: bool = setting(
        True,
        "models run by the operator of kanserve-kernel, where that is installed, the export has such a graph and it "
        "measures faster",
        group=Group.MODELS,
    )
    piece_bytes: Size = setting(
        2 * MIB,
        "a large batch runs in pieces whose widest intermediate has this size, or less where that is faster at load",
        group=Group.MODELS,
        metavar="BYTES",
    )
    inline_seconds: float = setting(
        200e-6, "a run that is shorter holds the event loop", group=Group.MODELS, metavar="SECONDS", ge=0, le=1
    )

    compute_nice: int = setting(
        10,
        "how far threads that compute stand back behind those that answer (Unix niceness)",
        group=Group.MODELS,
        metavar="N",
        ge=0,
        le=19,
    )

    state: Path | None = setting(
        None,
        "what statistics have counted is kept here over restarts; a folder for each server",
        group=Group.MODELS,
        metavar="DIR",
    )
    poll: Pause = setting(
        2.0,
        "until the repository is looked at again; 0: on SIGHUP alone",
        group=Group.MODELS,
        metavar="SECONDS",
    )
    model_control: Literal["poll", "explicit"] = setting(
        "poll",
        "poll: what the repository has; explicit: what RepositoryModelLoad asks for",
        group=Group.MODELS,
        metavar="poll|explicit",
    )
    load_model: str = setting(
        "",
        "with explicit, models that are loaded at the start: names with commas between, or *",
        group=Group.MODELS,
        metavar="NAMES",
        pattern=r"|\*|[A-Za-z0-9][A-Za-z0-9._-]{0,127}(,[A-Za-z0-9][A-Za-z0-9._-]{0,127})*",
    )
    version_policy: str = setting(
        "all",
        "versions that are served, unless a config.pbtxt has its own: all, latest:N, specific:1,3",
        group=Group.MODELS,
        metavar="POLICY",
        pattern=r"all|latest:[1-9]\d{0,8}|specific:[1-9]\d{0,17}(,[1-9]\d{0,17})*",
    )

    batching: bool = setting(True, "requests of one model that wait run together", group=Group.MODELS)
    max_queue_delay_microseconds: int = setting(
        0, "that a request may wait for others", group=Group.MODELS, metavar="N", ge=0, le=10**7
    )
    max_batch_rows: Count = setting(1024, "rows that run together", group=Group.MODELS, metavar="N")

    max_request_bytes: Size = setting(
        4 * MIB,
        "larger requests are refused; unset: no less than a full batch of any model",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    max_response_bytes: Size = setting(
        16 * MIB, "larger answers are refused before they are computed", group=Group.LIMITS, metavar="BYTES"
    )
    max_typed_bytes: Size = setting(
        MIB,
        "larger typed contents are refused; raw ones are cheaper",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    max_strings: Count = setting(2**14, "strings of one input", group=Group.LIMITS, metavar="N")
    max_models: Count = setting(
        1000, "models that are served; others of the repository are refused, and told", group=Group.LIMITS, metavar="N"
    )
    max_queue: Count = setting(256, "requests of one model that wait or run", group=Group.LIMITS, metavar="N")
    max_queue_bytes: Size = setting(64 * MIB, "inputs of one model that wait", group=Group.LIMITS, metavar="BYTES")
    max_query_rows: Count = setting(4096, "rows of one edge query", group=Group.LIMITS, metavar="N")
    max_query_evaluations: Count = setting(
        2**27, "rows x positions x edges that one edge query may compute", group=Group.LIMITS, metavar="N"
    )
    max_queries: Count = setting(16, "edge queries of one model that wait or run", group=Group.LIMITS, metavar="N")
    statistics: Literal["off", "sampled", "full"] = setting(
        "sampled",
        "of what versions are asked: sampled: of so many rows a second; full: of all",
        group=Group.LIMITS,
        metavar="off|sampled|full",
    )
    statistics_rows: int = setting(
        200,
        "rows a second of a version's traffic that are looked into where statistics are sampled; 0: none",
        group=Group.LIMITS,
        metavar="N",
        ge=0,
        le=1_000_000,
    )
    keep_rows: int = setting(
        0,
        "of a version's latest rows that are kept in memory, for those with the role interpret to look at; 0: none",
        group=Group.LIMITS,
        metavar="N",
        ge=0,
        le=1000,
    )
    query_bytes: Size = setting(
        32 * MIB, "edge values of one query that are held at a time", group=Group.LIMITS, metavar="BYTES"
    )
    # Each may hold a request of `max_request_bytes`. Queues refuse long before; this
    # bounds memory when many models, or many connections, are busy at once. A stream that a
    # connection may not open is reset without a word, so `max_streams` is no smaller.
    max_calls: Count = setting(1024, "calls that are handled at once", group=Group.LIMITS, metavar="N", live=True)
    max_bytes: Size = setting(
        256 * MIB, "messages of all calls together", group=Group.LIMITS, metavar="BYTES", live=True
    )
    max_stream_requests: Count = setting(
        64, "requests of one ModelStreamInfer that are handled or wait to be sent", group=Group.LIMITS, metavar="N"
    )
    max_deadline: float | None = setting(
        None,
        "that a call, or one of a stream's requests, may take at most (any time)",
        group=Group.LIMITS,
        metavar="SECONDS",
        ge=0.001,
        le=86400,
    )
    max_watches: Count = setting(
        64,
        "health watches that are open at once, and as many of statistics (of these a quarter by one known client)",
        group=Group.LIMITS,
        metavar="N",
        live=True,
    )

    max_connections: Count = setting(1000, "open connections", group=Group.CONNECTIONS, metavar="N")
    max_streams: Count = setting(2048, "calls at once on one connection", group=Group.CONNECTIONS, metavar="N")
    max_header_bytes: Size = setting(
        16 * 2**10, "headers, or metadata, of one request", group=Group.CONNECTIONS, metavar="BYTES"
    )
    arrival_timeout: Seconds = setting(
        30.0,
        "for a request to arrive whole, for an answer to be taken (asgi)",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )
    handshake_timeout: Seconds = setting(10.0, "for a new connection", group=Group.CONNECTIONS, metavar="SECONDS")
    connection_idle: Seconds = setting(
        300.0, "an idle connection is closed", group=Group.CONNECTIONS, metavar="SECONDS"
    )
    connection_age: Seconds = setting(
        1800.0, "any connection is closed (grpcio)", group=Group.CONNECTIONS, metavar="SECONDS"
    )
    connection_age_grace: Seconds = setting(
        30.0,
        "for the calls on a connection that is closed for its age (grpcio)",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )
    keepalive: Seconds = setting(
        60.0, "until a silent connection is asked for a sign of life", group=Group.CONNECTIONS, metavar="SECONDS"
    )
    scrape_timeout: Seconds = setting(
        10.0, "until a silent client of the metrics port is dropped", group=Group.CONNECTIONS, metavar="SECONDS"
    )

    drain_delay: float = setting(
        5.0,
        "between not ready and closing, on SIGTERM",
        group=Group.LEAVING,
        metavar="SECONDS",
        live=True,
        ge=0,
        le=600,
    )
    refuse_seconds: float = setting(
        0.5, "of clean refusals before the port closes", group=Group.LEAVING, metavar="SECONDS", live=True, ge=0, le=60
    )
    drain_grace: float = setting(
        25.0, "that calls in flight may take after it", group=Group.LEAVING, metavar="SECONDS", live=True, ge=0, le=600
    )

    stuck_loop_seconds: float = setting(
        20.0,
        "without a sign of life of the event loop, and the process ends; 0: never",
        group=Group.LEAVING,
        metavar="SECONDS",
        ge=0,
        le=86400,
    )
    stuck_run_seconds: float = setting(
        120.0,
        "of one run, and the server leaves; 0: never",
        group=Group.LEAVING,
        metavar="SECONDS",
        ge=0,
        le=86400,
    )

    log_format: Literal["auto", "json", "console"] = setting(
        "auto", "auto: console on a terminal", group=Group.LOGS, metavar="auto|json|console", live=True
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "least severe line written", group=Group.LOGS, metavar="debug|info|warning|error", live=True
    )

    traces: bool = setting(
        False, "send OpenTelemetry traces by OTLP; the variables OTEL_* say where (extra `otel`)", group=Group.LOGS
    )
    access_log: str = setting(
        "errors",
        "calls that have a line: all, sampled:N (one of N that went well), errors, none (bugs alone)",
        group=Group.LOGS,
        metavar="POLICY",
        live=True,
        pattern=r"all|errors|none|sampled:[1-9]\d{0,8}",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given: `sources.load` merges the sources, to know the origins."""
        return (init_settings,)

    @property
    def exposed(self) -> str:
        """What is wrong with an address that other machines reach, or "". TLS alone tells callers who the server is; it
        keeps nobody out."""
        if is_loopback(self.host):
            return ""
        if self.tls_cert is None:
            return "tokens would travel in the clear" if self.tokens else "there is neither TLS nor authentication"
        return "" if self.tokens or self.tls_client_ca else "TLS keeps no caller out"

    @property
    def looked_into(self) -> float:
        """Rows a second of a version's traffic; infinite: all."""
        return {"off": 0.0, "sampled": float(self.statistics_rows), "full": math.inf}[self.statistics]

    @property
    def certified(self) -> bool:
        """Whether callers may be told by the certificates that they show."""
        return self.tokens is not None and self.tls_client_ca is not None

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
        if self.exposed and not self.insecure:
            raise ValueError(
                f"host {self.host} is reachable from other machines, and {self.exposed}: keep 127.0.0.1 and put a "
                "proxy in front; or set tls_cert and tls_key, with who may call (tokens) or who signs their "
                "certificates (tls_client_ca); or, on a network where all that is meant, say so with insecure = true "
                "(--insecure)"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ValueError(f"{given} is set and {missing} is not: a certificate and its key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca is set and tls_cert is not: callers show certificates over TLS only")
        return self


def flags() -> dict[str, FlagForm]:
    """Every setting that has a flag of its own, in the order of `Settings`; switches have no metavar."""
    table = {}
    for name, field in Settings.model_fields.items():
        shown = field.json_schema_extra
        if isinstance(shown, dict):
            table[name] = FlagForm(str(shown["group"]), str(shown["metavar"]))
    return table


LIVE = tuple(
    name
    for name, field in Settings.model_fields.items()
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra["live"]
)


# NOTE: the metrics address has no such rule: it is read-only, holds no tensor
# contents, and exists to be scraped from another machine.
def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
