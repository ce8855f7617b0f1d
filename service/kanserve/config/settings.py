"""Settings and limits of the server: meaning, default and range of each.

`config/sources.py` reads their values from flags, the environment and a TOML file.
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
    the server runs, and `App.change` takes it over."""
    if "pattern" in checks:  # which pydantic looks for anywhere in a value
        checks["pattern"] = f"^({checks['pattern']})$"
    shown: JsonDict = {"group": group, "metavar": metavar, "live": live}
    return Field(default, description=description, json_schema_extra=shown, **checks)


class Settings(BaseSettings):
    """Immutable settings of one server process. Build them with `sources.load`, or directly in tests.

    All limits that an operator may want to set are here. A limit that the protocol fixes is a constant next to its
    use.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    repository: Path = Field(description="folder of models: NAME/VERSION/model.onnx")
    host: str = setting("127.0.0.1", "address of the gRPC port", group=Group.ADDRESSES, metavar="ADDRESS")
    grpc_port: Port = setting(8001, "port for gRPC; 0: any free port", group=Group.ADDRESSES, metavar="PORT")
    transport: Literal["auto", "asgi", "grpcio"] = setting(
        "auto",
        "implementation of HTTP/2; auto: asgi if h2corn is installed, otherwise grpcio",
        group=Group.ADDRESSES,
        metavar="auto|asgi|grpcio",
    )
    http_port: int | None = setting(
        None,
        "additional port for HTTP; 0: any free port; unset: no additional port",
        group=Group.ADDRESSES,
        metavar="PORT",
        ge=0,
        le=65535,
    )
    metrics_host: str = setting("127.0.0.1", "address of the metrics port", group=Group.ADDRESSES, metavar="ADDRESS")
    metrics_port: Port = setting(
        8002, "port for Prometheus metrics; 0: any free port", group=Group.ADDRESSES, metavar="PORT"
    )
    insecure: bool = setting(
        False,
        "permission for an address that other machines reach without TLS or without client authentication",
        group=Group.ADDRESSES,
    )
    workers: int = setting(
        1,
        "worker processes that share the port; each has its share of the threads",
        group=Group.ADDRESSES,
        metavar="N",
        ge=1,
        le=256,
    )
    reflection: bool = setting(False, "gRPC server reflection", group=Group.ADDRESSES)

    tls_cert: Path | None = setting(None, "server certificate chain, PEM", group=Group.TLS, metavar="FILE")
    tls_key: Path | None = setting(
        None, "private key of the server certificate, PEM without a password", group=Group.TLS, metavar="FILE"
    )
    tls_client_ca: Path | None = setting(
        None,
        "client CA certificates, PEM; a client must present a certificate that one of them signed",
        group=Group.TLS,
        metavar="FILE",
    )

    credential_poll_seconds: Seconds = setting(
        10.0,
        "interval between two checks of the certificates and the token file; a token file change is found within a "
        "twentieth of it",
        group=Group.ACCESS,
        metavar="SECONDS",
        live=True,
    )
    tokens: Path | None = setting(
        None,
        "token file: the clients that have access, see `kanserve token`",
        group=Group.ACCESS,
        metavar="FILE",
    )

    backend: str = setting(
        "ort", "runtime that executes the graphs; ort: ONNX Runtime", group=Group.MODELS, metavar="NAME"
    )
    device: Literal["cpu", "cuda"] = setting(
        "cpu",
        "device that executes the graphs; kanserve never falls back to another device",
        group=Group.MODELS,
        metavar="cpu|cuda",
    )
    threads: int = setting(
        0, "compute threads; 0: as many as the cgroup grants", group=Group.MODELS, metavar="N", ge=0, le=1024
    )
    plain_onnx: bool = setting(
        False, "serving of model.onnx files that have no manifest; such models have no edge queries", group=Group.MODELS
    )
    plain_onnx_max_batch_size: Count = setting(
        1024, "maximum rows of one request to a model without a manifest", group=Group.MODELS, metavar="N"
    )
    max_file_bytes: FileSize = setting(2**30, "maximum size of one model file", group=Group.MODELS, metavar="BYTES")
    allow_hard_links: bool = setting(
        False,
        "acceptance of model files with more than one hard link, as some images and file stores create them",
        group=Group.MODELS,
    )
    load_check: bool = setting(
        True,
        "load check: each version is loaded and executed in a sandbox process before the server loads it",
        group=Group.MODELS,
    )
    load_timeout: Seconds = setting(
        60.0,
        "time limit of the load check of one version, plus 1 s per 16 MiB of model files",
        group=Group.MODELS,
        metavar="SECONDS",
    )
    load_memory_bytes: FileSize = setting(
        4 * 2**30,
        "memory limit of the load check of one version, in addition to four times the size of its files",
        group=Group.MODELS,
        metavar="BYTES",
    )
    graph_allowlist: Literal["strict", "relaxed"] = setting(
        "strict",
        "operators that a graph may have; strict: known operators; relaxed: also loops, functions and other domains",
        group=Group.MODELS,
        metavar="strict|relaxed",
    )
    kernel: bool = setting(
        True,
        "use of the custom operator of kanserve-kernel if it is installed, the export has such a graph and that graph "
        "measures faster",
        group=Group.MODELS,
    )
    micro_batch_bytes: Size = setting(
        2 * MIB,
        "maximum size of the widest intermediate tensor of one micro-batch; the server splits larger batches, and uses "
        "smaller micro-batches if they measure faster",
        group=Group.MODELS,
        metavar="BYTES",
    )
    inline_run_seconds: float = setting(
        200e-6,
        "longest graph execution that runs on the event loop instead of a thread; 0: none",
        group=Group.MODELS,
        metavar="SECONDS",
        ge=0,
        le=1,
    )

    compute_nice: int = setting(
        10,
        "niceness of the compute threads compared with the threads that answer requests",
        group=Group.MODELS,
        metavar="N",
        ge=0,
        le=19,
    )

    state_dir: Path | None = setting(
        None,
        "folder that keeps the statistics over restarts; each server needs its own; unset: statistics start at zero",
        group=Group.MODELS,
        metavar="DIR",
    )
    repository_poll_seconds: Pause = setting(
        2.0,
        "interval between two scans of the repository; 0: the server scans only on SIGHUP",
        group=Group.MODELS,
        metavar="SECONDS",
    )
    model_control: Literal["poll", "explicit"] = setting(
        "poll",
        "models that are loaded; poll: all in the repository; explicit: those that RepositoryModelLoad names",
        group=Group.MODELS,
        metavar="poll|explicit",
    )
    load_model: str = setting(
        "",
        "models that are loaded at the start if model_control is explicit: names separated by commas, or *",
        group=Group.MODELS,
        metavar="NAMES",
        pattern=r"|\*|[A-Za-z0-9][A-Za-z0-9._-]{0,127}(,[A-Za-z0-9][A-Za-z0-9._-]{0,127})*",
    )
    version_policy: str = setting(
        "all",
        "versions that are served if a model's config.pbtxt has no policy: all, latest:N, specific:1,3",
        group=Group.MODELS,
        metavar="POLICY",
        pattern=r"all|latest:[1-9]\d{0,8}|specific:[1-9]\d{0,17}(,[1-9]\d{0,17})*",
    )

    batching: bool = setting(True, "dynamic batching of the waiting requests of one model", group=Group.MODELS)
    max_queue_delay_microseconds: int = setting(
        0,
        "maximum time that a request waits for others to join its batch; 0: none",
        group=Group.MODELS,
        metavar="N",
        ge=0,
        le=10**7,
    )
    max_batch_rows: Count = setting(1024, "maximum rows of one batch", group=Group.MODELS, metavar="N")

    max_request_bytes: Size = setting(
        4 * MIB,
        "maximum size of one request; unset: at least one full batch of each model",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    max_response_bytes: Size = setting(
        16 * MIB,
        "maximum size of one response; larger ones are rejected before they are computed",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    max_typed_contents_bytes: Size = setting(
        MIB,
        "maximum size of the typed contents of one input; raw contents need less work",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    max_input_strings: Count = setting(2**14, "maximum number of strings in one input", group=Group.LIMITS, metavar="N")
    max_models: Count = setting(
        1000, "maximum number of served models; the server rejects and logs the others", group=Group.LIMITS, metavar="N"
    )
    max_pending_requests: Count = setting(
        256, "maximum requests of one model that wait or run", group=Group.LIMITS, metavar="N"
    )
    max_queue_bytes: Size = setting(
        64 * MIB, "maximum size of the waiting inputs of one model", group=Group.LIMITS, metavar="BYTES"
    )
    max_edge_query_rows: Count = setting(4096, "maximum rows of one edge query", group=Group.LIMITS, metavar="N")
    max_edge_query_evaluations: Count = setting(
        2**27, "maximum evaluations of one edge query: rows x positions x edges", group=Group.LIMITS, metavar="N"
    )
    max_edge_queries: Count = setting(
        16, "maximum edge queries of one model that wait or run", group=Group.LIMITS, metavar="N"
    )
    statistics: Literal["off", "sampled", "full"] = setting(
        "sampled",
        "share of live traffic that statistics analyse; off: none; sampled: statistics_rows_per_second; full: all rows",
        group=Group.LIMITS,
        metavar="off|sampled|full",
    )
    statistics_rows_per_second: int = setting(
        200,
        "rows per second of each version that statistics analyse if statistics is sampled; 0: none",
        group=Group.LIMITS,
        metavar="N",
        ge=0,
        le=1_000_000,
    )
    sample_rows: int = setting(
        0,
        "latest rows of each version that stay in memory and that clients with the role interpret can read; 0: none",
        group=Group.LIMITS,
        metavar="N",
        ge=0,
        le=1000,
    )
    edge_query_chunk_bytes: Size = setting(
        32 * MIB, "maximum size of the edge values that one query holds at a time", group=Group.LIMITS, metavar="BYTES"
    )
    # Each may hold a request of `max_request_bytes`. Queues refuse long before; this
    # bounds memory when many models, or many connections, are busy at once. A stream that a
    # connection may not open is reset without a word, so `max_concurrent_streams` is no smaller.
    max_inflight_requests: Count = setting(
        1024, "maximum requests that the process handles at once", group=Group.LIMITS, metavar="N", live=True
    )
    max_inflight_bytes: Size = setting(
        256 * MIB,
        "maximum size of all messages that the process handles at once",
        group=Group.LIMITS,
        metavar="BYTES",
        live=True,
    )
    max_stream_requests: Count = setting(
        64,
        "maximum requests of one ModelStreamInfer that run or wait for their response to be sent",
        group=Group.LIMITS,
        metavar="N",
    )
    max_deadline_seconds: float | None = setting(
        None,
        "maximum duration of a call and of each request of a stream; unset: no limit",
        group=Group.LIMITS,
        metavar="SECONDS",
        ge=0.001,
        le=86400,
    )
    max_watch_streams: Count = setting(
        64,
        "maximum open health watches, and as many statistics watches, of which one known client may have a quarter",
        group=Group.LIMITS,
        metavar="N",
        live=True,
    )

    max_connections: Count = setting(1000, "maximum open connections", group=Group.CONNECTIONS, metavar="N")
    max_concurrent_streams: Count = setting(
        2048, "maximum concurrent calls on one connection", group=Group.CONNECTIONS, metavar="N"
    )
    max_header_bytes: Size = setting(
        16 * 2**10, "maximum size of the headers or metadata of one request", group=Group.CONNECTIONS, metavar="BYTES"
    )
    request_read_timeout: Seconds = setting(
        30.0,
        "time limit for a client to send a whole request, and to read its response (asgi)",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )
    handshake_timeout: Seconds = setting(
        10.0, "time limit for the handshake of a new connection", group=Group.CONNECTIONS, metavar="SECONDS"
    )
    max_connection_idle_seconds: Seconds = setting(
        300.0, "time after which an idle connection is closed", group=Group.CONNECTIONS, metavar="SECONDS"
    )
    max_connection_age_seconds: Seconds = setting(
        1800.0, "time after which any connection is closed (grpcio)", group=Group.CONNECTIONS, metavar="SECONDS"
    )
    max_connection_age_grace_seconds: Seconds = setting(
        30.0,
        "time that calls have to finish on a connection that has reached its maximum age (grpcio)",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )
    keepalive_seconds: Seconds = setting(
        60.0,
        "time without traffic after which the server sends a keepalive probe",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )
    scrape_timeout: Seconds = setting(
        10.0,
        "time limit for a client of the metrics port to send its request and read the response",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )

    drain_delay_seconds: float = setting(
        5.0,
        "time between SIGTERM, when the server reports not ready, and the end of accepting requests",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        live=True,
        ge=0,
        le=600,
    )
    drain_reject_seconds: float = setting(
        0.5,
        "time during which a draining server rejects new requests with UNAVAILABLE before it closes the port",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        live=True,
        ge=0,
        le=60,
    )
    drain_grace_seconds: float = setting(
        25.0,
        "time that in-flight requests have to finish after the port is closed",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        live=True,
        ge=0,
        le=600,
    )

    loop_stall_seconds: float = setting(
        20.0,
        "time without a heartbeat of the event loop after which the watchdog ends the process; 0: never",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        ge=0,
        le=86400,
    )
    run_stall_seconds: float = setting(
        120.0,
        "duration of one graph execution after which the server shuts down; 0: never",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        ge=0,
        le=86400,
    )

    log_format: Literal["auto", "json", "console"] = setting(
        "auto",
        "format of log lines; auto: console on a terminal, otherwise json",
        group=Group.LOGS,
        metavar="auto|json|console",
        live=True,
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "least severe level that is logged", group=Group.LOGS, metavar="debug|info|warning|error", live=True
    )

    traces: bool = setting(
        False,
        "export of OpenTelemetry traces with OTLP; the OTEL_* variables configure it (extra `otel`)",
        group=Group.LOGS,
    )
    access_log: str = setting(
        "errors",
        "requests that are logged: all, sampled:N (errors and one of N successes), errors, none (only internal errors)",
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
        """Fault of an address that other machines reach, or "". TLS proves the server's identity to callers; it
        keeps no caller out."""
        if is_loopback(self.host):
            return ""
        if self.tls_cert is None:
            return "tokens would travel in the clear" if self.tokens else "there is neither TLS nor authentication"
        return "" if self.tokens or self.tls_client_ca else "TLS keeps no caller out"

    @property
    def sampled_rows_per_second(self) -> float:
        """Rows per second of a version that statistics analyse; infinite: all."""
        return {"off": 0.0, "sampled": float(self.statistics_rows_per_second), "full": math.inf}[self.statistics]

    @property
    def certified(self) -> bool:
        """True if client certificates may identify callers."""
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
            present, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ValueError(f"{present} is set and {missing} is not: a certificate and its key go together")
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
    """True if only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
