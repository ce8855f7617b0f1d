"""Real Envoy in front of a server, with the rules that KServe's controller writes into an HTTPRoute.

The controller of KServe 0.20 reads the ports of the Service. With one port, all requests go to it. With a gRPC port and
another one, only `inference.GRPCInferenceService` with the content type of gRPC goes to the gRPC port.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import stack_tools, wait
from tests.support.free_ports import free_port

SECONDS = 60
TYPES = "type.googleapis.com/envoy.extensions"
GRPC_PATH = r"^/inference\.GRPCInferenceService/.*$"
GRPC_TYPE = "^application/grpc.*$"
ALL = "^/.*$"
Document = dict[str, Any]


def one_rule(port: int) -> list[tuple[Document, int, bool]]:
    """Rules for one port `h2c`: match, port, and whether it has HTTP/2."""
    return [(_path(ALL), port, True)]


def two_rules(grpc_port: int, http_port: int) -> list[tuple[Document, int, bool]]:
    """Rules for a gRPC port and another port."""
    header = {"name": "content-type", "string_match": {"safe_regex": {"regex": GRPC_TYPE}}}
    return [({**_path(GRPC_PATH), "headers": [header]}, grpc_port, True), (_path(ALL), http_port, False)]


def _path(regex: str) -> Document:
    return {"safe_regex": {"regex": regex}}


@contextlib.contextmanager
def running(rules: list[tuple[Document, int, bool]], folder: Path) -> Iterator[int]:
    """The port of an Envoy with these rules. Skips the test if Envoy cannot be had."""
    program = stack_tools.program("envoy")
    port = free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(_bootstrap(port, rules)))
    command = [program, "--config-path", str(config), "--use-dynamic-base-id", "--concurrency", "1"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen([*command, "--log-level", "warning"], stdout=log, stderr=log)
    try:
        _wait(port, process, folder / "envoy.log")
        yield port
    finally:
        process.terminate()
        process.wait(SECONDS)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the port accepts connections. Raises AssertionError with the log if the program ends."""

    def accepts() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.create_connection(("127.0.0.1", port), 30):
            return True

    wait.until(accepts, "Envoy accepts connections", errors=(OSError,))


def _bootstrap(port: int, rules: list[tuple[Document, int, bool]]) -> Document:
    """The configuration of an Envoy that listens on a port of loopback."""
    routes = [
        {"match": match, "route": {"cluster": f"c{at}", "timeout": "60s"}} for at, (match, _, _) in enumerate(rules)
    ]
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}},
        ],
    }
    filters = [{"name": "http", "typed_config": manager}]
    listener = {"name": "gateway", "address": _address(port), "filter_chains": [{"filters": filters}]}
    clusters = [_cluster(f"c{at}", target, http2=http2) for at, (_, target, http2) in enumerate(rules)]
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


def _cluster(name: str, port: int, *, http2: bool) -> Document:
    endpoint = {"endpoint": {"address": _address(port)}}
    protocol = "http2_protocol_options" if http2 else "http_protocol_options"
    options = {"@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {protocol: {}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "30s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def _address(port: int) -> Document:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
