"""Settings and limits of the server: meaning, default and range of each.

`config/sources.py` reads their values from flags, the environment and a TOML file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import field_validator, model_validator
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
    metavar,
    setting,
    shown,
)
from kanserve.config.hosts import is_loopback

ENV_PREFIX = "KANSERVE_"
ADDRESSES, TLS, ACCESS, MODELS, LIMITS, CONNECTIONS, SHUTDOWN, LOGS = Group


class Settings(BaseSettings):
    """Immutable settings of one server process. Build them with `sources.load`, or directly in tests.

    All limits that an operator may set are here. A limit that the protocol fixes is a constant next to its use.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True)

    repository: Path
    """model repository: folder with NAME/VERSION/model.onnx"""
    host: str = setting(ADDRESSES, "127.0.0.1", metavar="ADDRESS")
    """address of the port for gRPC and HTTP; an address that other machines reach needs TLS and authentication"""
    grpc_port: Port = setting(ADDRESSES, 8001)
    """port for gRPC, and for HTTP with the asgi transport; set it if another program has it; 0: any free port"""
    transport: Literal["auto", "asgi", "grpcio"] = setting(ADDRESSES, "auto")
    """implementation of HTTP/2; auto: asgi if h2corn is installed, otherwise grpcio; set it explicitly, so
    that a missing h2corn cannot switch the transport"""
    http_port: int | None = setting(ADDRESSES, None, metavar="PORT", ge=0, le=65535)
    """additional port for HTTP, for clients and proxies that separate it from gRPC; 0: any free port; unset: no
    additional port"""
    metrics_host: str = setting(ADDRESSES, "127.0.0.1", metavar="ADDRESS")
    """address of the metrics port, which has neither TLS nor authentication; set it for a Prometheus on another
    machine"""
    metrics_port: Port = setting(ADDRESSES, 8002)
    """port for Prometheus metrics over plain HTTP; set it if another program has it; 0: any free port"""
    insecure: bool = setting(ADDRESSES, False)
    """permission to listen on an address that other machines reach, without TLS or without client authentication"""
    workers: int = setting(ADDRESSES, 1, ge=1, le=256)
    """worker processes that share the port; each has a copy of the models and its share of the compute threads; raise
    it if one event loop limits the throughput"""
    reflection: bool = setting(ADDRESSES, False)
    """gRPC server reflection, with which tools list the methods and messages"""

    tls_cert: Path | None = setting(TLS, None)
    """PEM file of the server certificate chain; unset: no TLS"""
    tls_key: Path | None = setting(TLS, None)
    """PEM file of the private key of the server certificate, without a password; unset: no TLS"""
    tls_client_ca: Path | None = setting(TLS, None)
    """PEM file of the client CA certificates, which must have signed the certificate of each client; unset: clients
    need no certificate"""

    credential_poll_seconds: Seconds = setting(ACCESS, 10.0, live=True)
    """interval between two checks of the certificates and the token file; a change of the token file
    takes effect within 1/20 of it; raise it for files on a slow volume"""
    tokens: Path | None = setting(ACCESS, None)
    """token file, which `kanserve token` writes: clients that have access, and their roles; unset: every client has
    access to everything"""
    allowed_hosts: str = setting(
        ACCESS, "", metavar="NAMES", pattern=r"|\*|[A-Za-z0-9][A-Za-z0-9.-]{0,252}(,[A-Za-z0-9][A-Za-z0-9.-]{0,252})*"
    )
    """further host names of this server, and of sites whose pages may call it, separated by commas; *: any name of this
    server"""

    device: Literal["cpu", "cuda"] = setting(MODELS, "cpu")
    """device that executes the graphs; if it is not available, the server does not start"""
    threads: int = setting(MODELS, 0, ge=0, le=1024)
    """compute threads per model, shared by the workers; set it if programs share the CPUs; 0: as many as the CPU limit
    of the cgroup allows"""
    plain_onnx: bool = setting(MODELS, False)
    """serve model.onnx files without a manifest; such models have no verification and no edge queries"""
    max_file_bytes: FileSize = setting(MODELS, 2**30)
    """maximum size of one model file; raise it for larger models; the server rejects larger files"""
    allow_hard_links: bool = setting(MODELS, False)
    """accept model files with more than one hard link, which some images and file stores create"""
    allow_edits: bool = setting(MODELS, False)
    """allow clients with the role admin to write edited versions to the repository (EditEdges)"""
    load_check: bool = setting(MODELS, True)
    """load check: each version is loaded and executed in a sandbox process before the server loads it; switch it off
    only for trusted models, which then load faster"""
    load_timeout: Seconds = setting(MODELS, 60.0)
    """time limit of the load check of one version, in seconds; 1 s is added per 16 MiB of model files; raise it on a
    slow machine"""
    load_memory_bytes: FileSize = setting(MODELS, 4 * 2**30)
    """memory limit of the load check of one version, in addition to 4 times the size of its files; raise it for models
    with large activations"""
    graph_allowlist: Literal["strict", "relaxed"] = setting(MODELS, "strict")
    """operators that a graph may contain; strict: known operators; relaxed: also loops, functions and other domains"""
    kernel: bool = setting(MODELS, True)
    """use kanserve-kernel if installed: its custom operators (if faster), and native handling of repeated requests;
    switch it off to exclude it as a cause"""
    inline_run_seconds: float = setting(MODELS, 200e-6, ge=0, le=1)
    """longest graph execution that runs on the event loop instead of a thread; lower it if the loop has too much to do;
    0: all run on threads"""

    compute_nice: int = setting(MODELS, 10, ge=0, le=19)
    """niceness of the compute threads, relative to the threads that handle requests; lower it if other programs take
    the CPUs from the models; 0: the same priority"""

    state_dir: Path | None = setting(MODELS, None, metavar="DIR")
    """folder in which the traffic statistics persist; each server needs a separate folder; unset: statistics start at
    zero after a restart"""
    model_name: str = setting(MODELS, "", metavar="NAME", pattern=r"|[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
    """name under which the only model of the repository is served; empty: the names of folders and manifests"""
    repository_poll_seconds: Pause = setting(MODELS, 2.0)
    """interval between two scans of the repository; raise it for a network volume; 0: the server scans on SIGHUP
    only"""
    model_control: Literal["poll", "explicit"] = setting(MODELS, "poll")
    """selection of models to load; poll: all in the repository; explicit: those of RepositoryModelLoad requests"""
    load_model: str = setting(
        MODELS, "", metavar="NAMES", pattern=r"|\*|[A-Za-z0-9][A-Za-z0-9._-]{0,127}(,[A-Za-z0-9][A-Za-z0-9._-]{0,127})*"
    )
    """models loaded at the start if model_control is explicit: names separated by commas; *: all; empty: none"""
    version_policy: str = setting(
        MODELS, "all", metavar="POLICY", pattern=r"all|latest:[1-9]\d{0,8}|specific:[1-9]\d{0,17}(,[1-9]\d{0,17})*"
    )
    """versions that are served if the config.pbtxt of a model has no policy: all, latest:N, specific:1,3"""
    ready_requires: str = setting(
        MODELS,
        "serving",
        metavar="serving|all|NAMES",
        pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(,[A-Za-z0-9][A-Za-z0-9._-]{0,127})*",
    )
    """versions that readiness waits for; serving: each load was attempted and one version serves; all: each version
    found at the start serves; names separated by commas: these models serve"""

    batching: bool = setting(MODELS, True)
    """dynamic batching of the waiting requests of one model; switch it off to measure requests one by one"""
    max_queue_delay_microseconds: int = setting(MODELS, 0, ge=0, le=10**7)
    """maximum time that a request waits for others to join its batch; raise it for larger batches on a GPU; 0: requests
    do not wait"""
    max_batch_rows: Count = setting(MODELS, 1024)
    """maximum rows of one batch; max_batch_size of the model is a second limit; lower it for latency"""

    max_request_bytes: Size = setting(LIMITS, 4 * MIB)
    """maximum size of one request; if it is not set, the server raises it to a full batch, up to 32 MiB; raise it for
    larger batches"""
    max_response_bytes: Size = setting(LIMITS, 16 * MIB)
    """maximum size of one response; the server rejects requests for larger ones before it computes them; raise it for
    edge queries of wide layers"""
    max_typed_contents_bytes: Size = setting(LIMITS, MIB)
    """maximum size of the typed contents of one input; raw contents are limited by max_request_bytes only; raise it for
    clients that cannot send raw contents"""
    max_input_strings: Count = setting(LIMITS, 2**14)
    """maximum number of strings in one input; raise it for larger batches of texts"""
    max_models: Count = setting(LIMITS, 1000)
    """maximum number of served models; the server rejects and logs the others; raise it if its memory has room"""
    max_pending_requests: Count = setting(LIMITS, 256)
    """maximum requests of one model in its queue or in execution; the server rejects further ones with UNAVAILABLE;
    lower it to reject earlier instead of waiting"""
    max_queue_bytes: Size = setting(LIMITS, 64 * MIB)
    """maximum size of the inputs in the queue of one model; raise it for large requests that arrive in bursts"""
    max_edge_query_rows: Count = setting(LIMITS, 4096)
    """maximum rows of one edge query; raise it for queries over whole data sets"""
    max_edge_query_evaluations: Count = setting(LIMITS, 2**27)
    """maximum edge evaluations of one edge query: rows x positions x edges; lower it if queries slow down inference"""
    max_edge_queries: Count = setting(LIMITS, 16)
    """maximum edge queries of one model in the queue or in execution; raise it if many people explore one model"""
    statistics: Literal["off", "sampled", "full"] = setting(LIMITS, "sampled")
    """traffic statistics; off: none; sampled: statistics_rows_per_second rows per second; full: all rows"""
    statistics_rows_per_second: int = setting(LIMITS, 200, ge=0, le=1_000_000)
    """rows per second and version that the statistics sample if statistics is sampled; raise it to see drift earlier;
    0: none"""
    sample_rows: int = setting(LIMITS, 0, ge=0, le=1000)
    """latest request rows per version that stay in memory, which clients with the role interpret can read; 0: none;
    these rows are data of clients"""
    # Each may hold a request of `max_request_bytes`. Queues refuse long before; this
    # bounds memory when many models, or many connections, are busy at once. A stream that a
    # connection may not open is reset without a word, so `max_concurrent_streams` is no smaller.
    max_inflight_requests: Count = setting(LIMITS, 1024, live=True)
    """maximum requests that one process handles at once; raise it for many slow models or connections"""
    max_inflight_bytes: Size = setting(LIMITS, 256 * MIB, live=True)
    """maximum size of all messages that one process handles at once; lower it in a small container"""
    max_stream_requests: Count = setting(LIMITS, 64)
    """maximum requests of one ModelStreamInfer stream in execution or with an unsent response; raise it if one stream
    carries the whole load of a client"""
    max_deadline_seconds: float | None = setting(LIMITS, None, metavar="SECONDS", ge=0.001, le=86400)
    """maximum duration of a call, and of each request of a stream; it shortens longer deadlines; unset: no limit"""
    max_watch_streams: Count = setting(LIMITS, 64, live=True)
    """maximum open statistics watches; one authenticated client may have 25% of them; raise it for many open web
    pages"""

    max_connections: Count = setting(CONNECTIONS, 1000)
    """maximum open connections, and maximum open health watches, of the process; raise it for many clients without a
    proxy"""
    max_concurrent_streams: Count = setting(CONNECTIONS, 2048)
    """maximum concurrent calls on one connection; lower it against clients that reset streams"""
    max_header_bytes: Size = setting(CONNECTIONS, 16 * 2**10)
    """maximum size of the headers or metadata of one request; raise it for proxies that add long tokens"""
    request_read_timeout: Seconds = setting(CONNECTIONS, 30.0)
    """time limit for a client to send a whole request, and to read its response, in seconds (asgi); raise it for slow
    networks"""
    handshake_timeout: Seconds = setting(CONNECTIONS, 10.0)
    """time limit for the handshake of a new connection, in seconds; raise it for slow networks"""
    max_connection_idle_seconds: Seconds = setting(CONNECTIONS, 300.0)
    """time without calls after which the server closes a connection; set it above the idle time of a load balancer"""
    max_connection_age_seconds: Pause = setting(CONNECTIONS, 1800.0)
    """age, within 10%, at which the server closes a connection, so that clients reach new replicas; 0: no limit"""
    max_connection_age_grace_seconds: Seconds = setting(CONNECTIONS, 30.0)
    """time that calls have to finish after their connection has reached its maximum age; raise it for long streams"""
    keepalive_seconds: Seconds = setting(CONNECTIONS, 60.0)
    """time without traffic after which the server sends a keepalive probe; lower it if a firewall drops silent
    connections"""

    drain_delay_seconds: float = setting(SHUTDOWN, 5.0, live=True, ge=0, le=600)
    """on SIGTERM, time between reporting not ready and rejecting new requests; raise it for load balancers that probe
    less often; 0: no wait"""
    drain_reject_seconds: float = setting(SHUTDOWN, 0.5, live=True, ge=0, le=60)
    """on SIGTERM, time during which the server rejects new requests with UNAVAILABLE before it closes the port; raise
    it for clients that reconnect late; 0: no wait"""
    drain_grace_seconds: float = setting(SHUTDOWN, 25.0, live=True, ge=0, le=600)
    """on SIGTERM, time that in-flight requests have to finish after the port is closed; raise it for long explanations;
    0: the server cancels them at once"""

    loop_stall_seconds: float = setting(SHUTDOWN, 20.0, ge=0, le=86400)
    """time without a heartbeat of the event loop after which the watchdog ends the process; raise it on an overloaded
    machine; 0: no limit"""
    run_stall_seconds: float = setting(SHUTDOWN, 120.0, ge=0, le=86400)
    """duration of one graph execution after which the server shuts down; raise it for slow models; 0: no limit"""

    log_format: Literal["auto", "json", "console"] = setting(LOGS, "auto", live=True)
    """format of log lines; auto: console on a terminal, otherwise json"""
    log_level: Literal["debug", "info", "warning", "error"] = setting(LOGS, "info", live=True)
    """least severe level of the log; debug helps to find the cause of a fault"""

    traces: bool = setting(LOGS, False)
    """export of OpenTelemetry traces with OTLP, which the OTEL_* variables configure; needs the extra `otel`"""
    access_log: str = setting(
        LOGS, "errors", metavar="POLICY", live=True, pattern=r"all|errors|none|sampled:[1-9]\d{0,8}"
    )
    """requests that are logged: all, sampled:N (errors and one of N successes), errors, none (internal errors only)"""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
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


LIVE = tuple(name for name, field in Settings.model_fields.items() if shown(field)["live"])


def flags() -> dict[str, FlagForm]:
    """Every setting that has a flag, in the order of `Settings`; switches have no metavar."""
    fields = {name: field for name, field in Settings.model_fields.items() if name != "repository"}
    return {name: FlagForm(str(shown(field)["group"]), metavar(field)) for name, field in fields.items()}
