"""Probes of a container, run as the kubelet runs them."""

from __future__ import annotations

import ssl
import subprocess
import urllib.request
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from tests.support.command_line import COMMAND

SECONDS = 60
CHECK = "/grpc.health.v1.Health/Check"


def passes(probe: dict[str, Any], env: dict[str, str], port: int) -> bool:
    """One run of a probe, on a port of loopback. `env`: the variables of the container, for `exec`."""
    if "grpc" in probe:
        request = health_pb2.HealthCheckRequest(service=probe["grpc"].get("service", ""))
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary(CHECK, response_deserializer=health_pb2.HealthCheckResponse.FromString)
            try:
                answer = call(request.SerializeToString(), timeout=probe["timeoutSeconds"])
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    if "httpGet" in probe:
        get = probe["httpGet"]
        url = f"{get['scheme'].lower()}://127.0.0.1:{port}{get['path']}"
        unverified = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(url, timeout=probe["timeoutSeconds"], context=unverified) as response:
                return bool(response.status == 200)
        except OSError:
            return False
    command = [*COMMAND, *probe["exec"]["command"][1:]]
    return subprocess.run(command, env=env, capture_output=True, timeout=SECONDS).returncode == 0
