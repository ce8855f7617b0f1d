"""Settings and limits of the server: meaning, default and range of each.

`config/sources.py` reads their values from flags, the environment and a TOML file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from kanserve.config.fields import (
    MIB,
    Count,
    FileSize,
    FlagForm,
    Group,
    Pause,
    Port,
    Seconds,
    SettingFault,
    Size,
    setting,
)
from kanserve.config.hosts import is_loopback

ENV_PREFIX = "KANSERVE_"


class Settings(BaseSettings):
    """Immutable settings of one server process. Build them with `sources.load`, or directly in tests.

    All limits that an operator may set are here. A limit that the protocol fixes is a constant next to its use.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    repository: Path = Field(description="model repository: folder with NAME/VERSION/model.onnx")
    host: str = setting(
        "127.0.0.1",
        "address of the port for gRPC and HTTP; an address that other machines reach needs TLS and authentication",
        group=Group.ADDRESSES,
        metavar="ADDRESS",
    )
    grpc_port: Port = setting(
        8001,
        "port for gRPC, and for HTTP with the asgi transport; 0: any free port",
        group=Group.ADDRESSES,
        metavar="PORT",
    )
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
    metrics_host: str = setting(
        "127.0.0.1",
        "address of the metrics port, which has neither TLS nor authentication",
        group=Group.ADDRESSES,
        metavar="ADDRESS",
    )
    metrics_port: Port = setting(
        8002, "port for Prometheus metrics over plain HTTP; 0: any free port", group=Group.ADDRESSES, metavar="PORT"
    )
    insecure: bool = setting(
        False,
        "permission to listen on an address that other machines reach, without TLS or without client authentication",
        group=Group.ADDRESSES,
    )
    workers: int = setting(
        1,
        "worker processes that share the port; each has a copy of the models and its share of the compute threads",
        group=Group.ADDRESSES,
        metavar="N",
        ge=1,
        le=256,
    )
    reflection: bool = setting(
        False, "gRPC server reflection, with which tools list the methods and messages", group=Group.ADDRESSES
    )

    tls_cert: Path | None = setting(
        None, "PEM file of the server certificate chain; unset: no TLS", group=Group.TLS, metavar="FILE"
    )
    tls_key: Path | None = setting(
        None,
        "PEM file of the private key of the server certificate, without a password; unset: no TLS",
        group=Group.TLS,
        metavar="FILE",
    )
    tls_client_ca: Path | None = setting(
        None,
        "PEM file of the client CA certificates, which must have signed the certificate of each client; unset: "
        "clients need no certificate",
        group=Group.TLS,
        metavar="FILE",
    )

    credential_poll_seconds: Seconds = setting(
        10.0,
        "interval between two checks of the certificates and the token file; the server finds a change of the token "
        "file within 5% of it",
        group=Group.ACCESS,
        metavar="SECONDS",
        live=True,
    )
    tokens: Path | None = setting(
        None,
        "token file, which `kanserve token` writes: clients that have access, and their roles; unset: every client has "
        "access to everything",
        group=Group.ACCESS,
        metavar="FILE",
    )
    allowed_hosts: str = setting(
        "",
        "further host names of this server, and of sites whose pages may call it, separated by commas; *: any name of "
        "this server",
        group=Group.ACCESS,
        metavar="NAMES",
        pattern=r"|\*|[A-Za-z0-9][A-Za-z0-9.-]{0,252}(,[A-Za-z0-9][A-Za-z0-9.-]{0,252})*",
    )

    backend: str = setting(
        "ort", "runtime that executes the graphs; ort: ONNX Runtime", group=Group.MODELS, metavar="NAME"
    )
    device: Literal["cpu", "cuda"] = setting(
        "cpu",
        "device that executes the graphs; if it is not available, the server does not start",
        group=Group.MODELS,
        metavar="cpu|cuda",
    )
    threads: int = setting(
        0,
        "compute threads per model, shared by the workers; 0: as many as the CPU limit of the cgroup allows",
        group=Group.MODELS,
        metavar="N",
        ge=0,
        le=1024,
    )
    plain_onnx: bool = setting(
        False,
        "serving of model.onnx files without a manifest; such models have no verification and no edge queries",
        group=Group.MODELS,
    )
    plain_onnx_max_batch_size: Count = setting(
        1024, "maximum rows of one request to a model without a manifest", group=Group.MODELS, metavar="N"
    )
    max_file_bytes: FileSize = setting(
        2**30,
        "maximum size of one model file; the server rejects versions with larger files",
        group=Group.MODELS,
        metavar="BYTES",
    )
    allow_hard_links: bool = setting(
        False,
        "acceptance of model files with more than one hard link, which some images and file stores create",
        group=Group.MODELS,
    )
    allow_edits: bool = setting(False, "the RPC EditEdges, which writes versions to the repository", group=Group.MODELS)
    load_check: bool = setting(
        True,
        "load check: each version is loaded and executed in a sandbox process before the server loads it",
        group=Group.MODELS,
    )
    load_timeout: Seconds = setting(
        60.0,
        "time limit of the load check of one version, in seconds; 1 s is added per 16 MiB of model files",
        group=Group.MODELS,
        metavar="SECONDS",
    )
    load_memory_bytes: FileSize = setting(
        4 * 2**30,
        "memory limit of the load check of one version, in addition to 4 times the size of its files",
        group=Group.MODELS,
        metavar="BYTES",
    )
    graph_allowlist: Literal["strict", "relaxed"] = setting(
        "strict",
        "operators that a graph may contain; strict: known operators; relaxed: also loops, functions and other domains",
        group=Group.MODELS,
        metavar="strict|relaxed",
    )
    kernel: bool = setting(
        True,
        "use of kanserve-kernel if it is installed: its custom operators if the export has such a graph and that graph "
        "measures faster, and its native code for calls with a known head",
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
        "longest graph execution that runs on the event loop instead of a thread; 0: all run on threads",
        group=Group.MODELS,
        metavar="SECONDS",
        ge=0,
        le=1,
    )

    compute_nice: int = setting(
        10,
        "niceness of the compute threads, relative to the threads that handle requests; 0: the same priority",
        group=Group.MODELS,
        metavar="N",
        ge=0,
        le=19,
    )

    state_dir: Path | None = setting(
        None,
        "folder in which the traffic statistics persist; each server needs a separate folder; unset: statistics start "
        "at zero after a restart",
        group=Group.MODELS,
        metavar="DIR",
    )
    model_name: str = setting(
        "",
        "name under which the only model of the repository is served; empty: the names of folders and manifests",
        group=Group.MODELS,
        metavar="NAME",
        pattern=r"|[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
    )
    repository_poll_seconds: Pause = setting(
        2.0,
        "interval between two scans of the repository; 0: the server scans on SIGHUP only",
        group=Group.MODELS,
        metavar="SECONDS",
    )
    model_control: Literal["poll", "explicit"] = setting(
        "poll",
        "selection of models to load; poll: all in the repository; explicit: those of RepositoryModelLoad requests",
        group=Group.MODELS,
        metavar="poll|explicit",
    )
    load_model: str = setting(
        "",
        "models loaded at the start if model_control is explicit: names separated by commas; *: all; empty: none",
        group=Group.MODELS,
        metavar="NAMES",
        pattern=r"|\*|[A-Za-z0-9][A-Za-z0-9._-]{0,127}(,[A-Za-z0-9][A-Za-z0-9._-]{0,127})*",
    )
    version_policy: str = setting(
        "all",
        "versions that are served if the config.pbtxt of a model has no policy: all, latest:N, specific:1,3",
        group=Group.MODELS,
        metavar="POLICY",
        pattern=r"all|latest:[1-9]\d{0,8}|specific:[1-9]\d{0,17}(,[1-9]\d{0,17})*",
    )
    ready_requires: str = setting(
        "serving",
        "versions that readiness waits for; serving: each load was attempted and one version serves; all: each version "
        "found at the start serves; names separated by commas: these models serve",
        group=Group.MODELS,
        metavar="serving|all|NAMES",
        pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(,[A-Za-z0-9][A-Za-z0-9._-]{0,127})*",
    )

    batching: bool = setting(True, "dynamic batching of the waiting requests of one model", group=Group.MODELS)
    max_queue_delay_microseconds: int = setting(
        0,
        "maximum time that a request waits for others to join its batch; 0: requests do not wait",
        group=Group.MODELS,
        metavar="N",
        ge=0,
        le=10**7,
    )
    max_batch_rows: Count = setting(
        1024,
        "maximum rows of one batch; max_batch_size of the model is a second limit",
        group=Group.MODELS,
        metavar="N",
    )

    max_request_bytes: Size = setting(
        4 * MIB,
        "maximum size of one request; if it is not set, the server raises it to a full batch, up to 32 MiB",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    max_response_bytes: Size = setting(
        16 * MIB,
        "maximum size of one response; the server rejects requests for larger ones before it computes them",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    max_typed_contents_bytes: Size = setting(
        MIB,
        "maximum size of the typed contents of one input; raw contents are limited by max_request_bytes only",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    max_input_strings: Count = setting(2**14, "maximum number of strings in one input", group=Group.LIMITS, metavar="N")
    max_models: Count = setting(
        1000, "maximum number of served models; the server rejects and logs the others", group=Group.LIMITS, metavar="N"
    )
    max_pending_requests: Count = setting(
        256,
        "maximum requests of one model in its queue or in execution; the server rejects further ones with UNAVAILABLE",
        group=Group.LIMITS,
        metavar="N",
    )
    max_queue_bytes: Size = setting(
        64 * MIB, "maximum size of the inputs in the queue of one model", group=Group.LIMITS, metavar="BYTES"
    )
    max_edge_query_rows: Count = setting(4096, "maximum rows of one edge query", group=Group.LIMITS, metavar="N")
    max_edge_query_evaluations: Count = setting(
        2**27, "maximum edge evaluations of one edge query: rows x positions x edges", group=Group.LIMITS, metavar="N"
    )
    max_edge_queries: Count = setting(
        16, "maximum edge queries of one model in the queue or in execution", group=Group.LIMITS, metavar="N"
    )
    statistics: Literal["off", "sampled", "full"] = setting(
        "sampled",
        "traffic statistics; off: none; sampled: statistics_rows_per_second rows per second; full: all rows",
        group=Group.LIMITS,
        metavar="off|sampled|full",
    )
    statistics_rows_per_second: int = setting(
        200,
        "rows per second and version that the statistics sample if statistics is sampled; 0: none",
        group=Group.LIMITS,
        metavar="N",
        ge=0,
        le=1_000_000,
    )
    sample_rows: int = setting(
        0,
        "latest request rows per version that stay in memory, which clients with the role interpret can read; 0: none; "
        "these rows are data of clients",
        group=Group.LIMITS,
        metavar="N",
        ge=0,
        le=1000,
    )
    edge_query_chunk_bytes: Size = setting(
        32 * MIB,
        "maximum size of the edge values that one edge query holds in memory at a time",
        group=Group.LIMITS,
        metavar="BYTES",
    )
    # Each may hold a request of `max_request_bytes`. Queues refuse long before; this
    # bounds memory when many models, or many connections, are busy at once. A stream that a
    # connection may not open is reset without a word, so `max_concurrent_streams` is no smaller.
    max_inflight_requests: Count = setting(
        1024, "maximum requests that one process handles at once", group=Group.LIMITS, metavar="N", live=True
    )
    max_inflight_bytes: Size = setting(
        256 * MIB,
        "maximum size of all messages that one process handles at once",
        group=Group.LIMITS,
        metavar="BYTES",
        live=True,
    )
    max_stream_requests: Count = setting(
        64,
        "maximum requests of one ModelStreamInfer stream in execution or with an unsent response",
        group=Group.LIMITS,
        metavar="N",
    )
    max_deadline_seconds: float | None = setting(
        None,
        "maximum duration of a call, and of each request of a stream; it shortens longer deadlines; unset: no limit",
        group=Group.LIMITS,
        metavar="SECONDS",
        ge=0.001,
        le=86400,
    )
    max_watch_streams: Count = setting(
        64,
        "maximum open statistics watches; one authenticated client may have 25% of them",
        group=Group.LIMITS,
        metavar="N",
        live=True,
    )

    max_connections: Count = setting(
        1000,
        "maximum open connections, and maximum open health watches, of the process",
        group=Group.CONNECTIONS,
        metavar="N",
    )
    max_concurrent_streams: Count = setting(
        2048, "maximum concurrent calls on one connection", group=Group.CONNECTIONS, metavar="N"
    )
    max_header_bytes: Size = setting(
        16 * 2**10, "maximum size of the headers or metadata of one request", group=Group.CONNECTIONS, metavar="BYTES"
    )
    request_read_timeout: Seconds = setting(
        30.0,
        "time limit for a client to send a whole request, and to read its response, in seconds (asgi)",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )
    handshake_timeout: Seconds = setting(
        10.0, "time limit for the handshake of a new connection, in seconds", group=Group.CONNECTIONS, metavar="SECONDS"
    )
    max_connection_idle_seconds: Seconds = setting(
        300.0,
        "time without calls after which the server closes a connection",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )
    max_connection_age_seconds: Pause = setting(
        1800.0,
        "age, within 10%, at which the server closes a connection, so that clients reach new replicas; 0: no limit",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )
    max_connection_age_grace_seconds: Seconds = setting(
        30.0,
        "time that calls have to finish after their connection has reached its maximum age",
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
        "time limit for a client of the metrics port to send its request and read the response, in seconds",
        group=Group.CONNECTIONS,
        metavar="SECONDS",
    )

    drain_delay_seconds: float = setting(
        5.0,
        "on SIGTERM, time between reporting not ready and rejecting new requests; 0: no wait",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        live=True,
        ge=0,
        le=600,
    )
    drain_reject_seconds: float = setting(
        0.5,
        "on SIGTERM, time during which the server rejects new requests with UNAVAILABLE before it closes the port; 0: "
        "no wait",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        live=True,
        ge=0,
        le=60,
    )
    drain_grace_seconds: float = setting(
        25.0,
        "on SIGTERM, time that in-flight requests have to finish after the port is closed; 0: the server cancels them "
        "at once",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        live=True,
        ge=0,
        le=600,
    )

    loop_stall_seconds: float = setting(
        20.0,
        "time without a heartbeat of the event loop after which the watchdog ends the process; 0: no limit",
        group=Group.SHUTDOWN,
        metavar="SECONDS",
        ge=0,
        le=86400,
    )
    run_stall_seconds: float = setting(
        120.0,
        "duration of one graph execution after which the server shuts down; 0: no limit",
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
        "info", "least severe level of the log", group=Group.LOGS, metavar="debug|info|warning|error", live=True
    )

    traces: bool = setting(
        False,
        "export of OpenTelemetry traces with OTLP, which the OTEL_* variables configure; needs the extra `otel`",
        group=Group.LOGS,
    )
    access_log: str = setting(
        "errors",
        "requests that are logged: all, sampled:N (errors and one of N successes), errors, none (internal errors only)",
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
        """Fault of an address that other machines reach, or "". TLS identifies the server to clients; it does not
        authenticate clients."""
        if is_loopback(self.host):
            return ""
        if self.tls_cert is None:
            return (
                "tokens would be sent without encryption" if self.tokens else "there is neither TLS nor authentication"
            )
        return "" if self.tokens or self.tls_client_ca else "TLS does not authenticate clients"

    @property
    def sampled_rows_per_second(self) -> float:
        """Rows per second of a version that statistics sample; infinite: all."""
        return {"off": 0.0, "sampled": float(self.statistics_rows_per_second), "full": math.inf}[self.statistics]

    @property
    def certified(self) -> bool:
        """True if client certificates may identify callers."""
        return self.tokens is not None and self.tls_client_ca is not None

    @field_validator("repository")
    @classmethod
    def _repository_is_a_folder(cls, value: Path) -> Path:
        if not value.is_dir():
            raise SettingFault(
                f"{value} is not a folder",
                code="repository-not-a-folder",
                hint=f"create it with 'kanserve export CHECKPOINT --repository {value} --name NAME'",
            )
        return value

    @model_validator(mode="after")
    def _reachable_only_on_purpose(self) -> Settings:
        if self.exposed and not self.insecure:
            raise SettingFault(
                f"host {self.host} is reachable from other machines, and {self.exposed}",
                code="address-exposed",
                hint="keep 127.0.0.1 behind a proxy, or set tls_cert and tls_key with tokens or tls_client_ca, or set "
                "insecure on a trusted network",
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            present, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise SettingFault(
                f"{present} is set and {missing} is not, expected both",
                code="tls-pair-incomplete",
                hint=f"set {missing}",
            )
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise SettingFault(
                "tls_client_ca is set and tls_cert is not: clients present certificates over TLS only",
                code="tls-client-ca-without-tls",
                hint="set tls_cert and tls_key",
            )
        return self


FIELDS = {name: field.json_schema_extra for name, field in Settings.model_fields.items()}
SHOWN = {name: shown for name, shown in FIELDS.items() if isinstance(shown, dict)}
LIVE = tuple(name for name, shown in SHOWN.items() if shown["live"])


def flags() -> dict[str, FlagForm]:
    """Every setting that has a flag, in the order of `Settings`; switches have no metavar."""
    return {name: FlagForm(str(shown["group"]), str(shown["metavar"])) for name, shown in SHOWN.items()}
