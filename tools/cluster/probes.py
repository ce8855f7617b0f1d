"""Probes of a container: one run of each kind, and the thresholds that turn runs into a state."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from tools.cluster.manifest import Probe

CHECK = "/grpc.health.v1.Health/Check"
SEPARATE = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
Run = Callable[[], Awaitable[bool]]


@dataclass(slots=True)
class Verdict:
    """State of a probe: `passing` changes after `successes` or `failures` equal results in a row."""

    probe: Probe
    passing: bool
    row: int = 0
    last: bool | None = None

    def add(self, good: bool) -> bool:
        """Count one run. Returns True if a threshold is reached: `passing` is then the result of the run."""
        self.row = self.row + 1 if good is self.last else 1
        self.last = good
        reached = self.row >= (self.probe.successes if good else self.probe.failures)
        if reached:
            self.passing = good
        return reached


async def watch(run: Run, probe: Probe, scale: float, changed: Callable[[Verdict], bool], *, passing: bool) -> None:
    """Run a probe at its period, until `changed` returns False. It gets each verdict that reached a threshold.

    `scale` multiplies the period and the initial delay. A run that takes longer than the period delays the next one.
    """
    verdict = Verdict(probe, passing)
    await asyncio.sleep(probe.initial_delay * scale)
    loop = asyncio.get_running_loop()
    while True:
        begun = loop.time()
        if verdict.add(await run()) and not changed(verdict):
            return
        await asyncio.sleep(max(0.0, begun + probe.period * scale - loop.time()))


async def grpc_check(address: str, action: dict[str, Any], timeout: float) -> bool:
    """The standard health check on a new connection, as the kubelet makes it. `mode: TLS` is not implemented."""
    if "mode" in action:
        raise NotImplementedError(f"grpc probe with mode {action['mode']}")
    request = health_pb2.HealthCheckRequest(service=action.get("service", ""))
    async with grpc.aio.insecure_channel(address, SEPARATE) as channel:
        call: Any = channel.unary_unary(CHECK, response_deserializer=health_pb2.HealthCheckResponse.FromString)
        try:
            answer = await call(request.SerializeToString(), timeout=timeout)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def http_get(address: str, action: dict[str, Any], timeout: float) -> bool:
    """GET on a new connection without verification of the certificate: a status from 200 to 399 passes."""
    host, _, port = address.rpartition(":")
    secure = action.get("scheme", "HTTP") == "HTTPS"
    context = ssl._create_unverified_context() if secure else None
    with contextlib.suppress(OSError, ValueError, IndexError, asyncio.TimeoutError):
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            try:
                writer.write(
                    f"GET {action.get('path', '/')} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
                )
                return 200 <= int((await reader.readline()).split()[1]) < 400
            finally:
                writer.close()
    return False


async def execute(command: tuple[str, ...], env: dict[str, str], timeout: float) -> bool:
    """A command, which passes with exit code 0 within the timeout."""
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, env=env, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(timeout):
            return await process.wait() == 0
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
