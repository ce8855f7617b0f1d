"""Real Envoy in front of the pods, as a gateway (each request) and as a ClusterIP (each connection), from one EDS file.

The gateway has what docs/guides/serve/kubernetes.md recommends: HTTP/2 pings to the pods, and ejection of a pod after
connection failures of any kind, but not after rejected requests. It repeats no request.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.manifests import download

GATEWAY, CLUSTER_IP, ADMIN = 8001, 8101, 9901  # ports of the listeners
FIRST, COUNT = 201, 6  # addresses of the listeners: a client of each address has its own connection
START_SECONDS = 30
PING_SECONDS, PONG_SECONDS = 2, 3
EXTENSIONS = "type.googleapis.com/envoy.extensions"
Document = dict[str, Any]


@dataclass(slots=True)
class Envoy:
    """Running Envoy. `network`: first three numbers of its addresses."""

    network: str
    folder: Path
    process: subprocess.Popen[bytes]

    def address(self, port: int, client: int) -> str:
        """HOST:PORT of a listener for the client of this number."""
        return f"{self.network}.{FIRST + client % COUNT}:{port}"

    def write(self, endpoints: Sequence[str]) -> None:
        """Publish HOST:PORT of the pods: Envoy sees the file when it is replaced."""
        _write(self.folder / "eds.json", {"resources": [_assignment(endpoints)]})

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(START_SECONDS)


def start(network: str, folder: Path) -> Envoy:
    """An Envoy that accepts connections. Raises download.Unavailable, or RuntimeError with its log."""
    program = download.program("envoy")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "eds.json", {"resources": [_assignment(())]})
    _write(folder / "envoy.json", bootstrap(network, folder))
    command = [str(program), "--config-path", str(folder / "envoy.json"), "--use-dynamic-base-id"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--concurrency", "1", "--log-level", "warning", "--drain-time-s", "1"], stdout=log, stderr=log
        )
    envoy = Envoy(network, folder, process)
    end = time.monotonic() + START_SECONDS
    while not _accepts(f"{network}.{FIRST}", GATEWAY):
        if process.poll() is not None or time.monotonic() > end:
            envoy.close()
            raise RuntimeError(f"envoy does not start: {(folder / 'envoy.log').read_text()}")
        time.sleep(0.05)
    return envoy


class Publisher:
    """Endpoints with the delay of their way from the API server to gateways and names, in seconds.

    `write` receives the addresses.
    """

    def __init__(self, delay: float, write: Callable[[Sequence[str]], None]) -> None:
        self.delay, self._write = delay, write
        self.published: tuple[str, ...] = ()

    def change(self, endpoints: Sequence[str]) -> None:
        """Publish these endpoints after the delay. Changes stay in their order."""
        asyncio.get_running_loop().call_later(self.delay, self._publish, tuple(endpoints))

    def _publish(self, endpoints: tuple[str, ...]) -> None:
        if endpoints != self.published:
            self.published = endpoints
            self._write(endpoints)


def _accepts(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 1):
            return True
    except OSError:
        return False


def _write(file: Path, document: Document) -> None:
    new = file.with_suffix(".new")
    new.write_text(json.dumps(document))
    os.replace(new, file)


def _assignment(endpoints: Sequence[str]) -> Document:
    return {
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "pods",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(*_split(at))}} for at in endpoints]}],
    }


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def _socket(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port}}


def bootstrap(network: str, folder: Path) -> Document:
    """The configuration of Envoy: two listeners, two clusters with the same endpoints."""
    manager = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "gateway", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{EXTENSIONS}.filters.http.router.v3.Router"}},
        ],
    }
    tcp = {
        "@type": f"{EXTENSIONS}.filters.network.tcp_proxy.v3.TcpProxy",
        "stat_prefix": "cluster_ip",
        "cluster": "cluster_ip",
    }
    return {
        "admin": {"address": _socket(f"{network}.{FIRST}", ADMIN)},
        "node": {"id": "kanserve", "cluster": "kanserve"},
        "static_resources": {
            "listeners": [
                _listener("gateway", network, GATEWAY, manager),
                _listener("cluster_ip", network, CLUSTER_IP, tcp),
            ],
            "clusters": [_gateway(folder), _cluster("cluster_ip", folder)],
        },
    }


def _listener(name: str, network: str, port: int, filter_: Document) -> Document:
    addresses = [_socket(f"{network}.{FIRST + client}", port) for client in range(COUNT)]
    return {
        "name": name,
        "address": addresses[0],
        "additional_addresses": [{"address": address} for address in addresses[1:]],
        "filter_chains": [{"filters": [{"name": name, "typed_config": filter_}]}],
    }


def _cluster(name: str, folder: Path) -> Document:
    source = {"path": str(folder / "eds.json"), "watched_directory": {"path": str(folder)}}
    return {
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {"service_name": "pods", "eds_config": {"path_config_source": source}},
    }


def _gateway(folder: Path) -> Document:
    protocol = {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {
                "connection_keepalive": {"interval": f"{PING_SECONDS}s", "timeout": f"{PONG_SECONDS}s"}
            }
        },
    }
    # Only failures of connections count: a rejected request says that the pod has too much load, not that it is broken.
    ejection = {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 2,
        "enforcing_consecutive_5xx": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_percent": 50,
    }
    return {
        **_cluster("gateway", folder),
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol},
        "outlier_detection": ejection,
        # Otherwise a pod that fails right after its ejection ends gets requests for another second.
        "common_lb_config": {"update_merge_window": "0s"},
    }
