"""A running cluster: controller, pods, endpoints and Envoy, with the objects that a release needs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from tests.support import model_stores
from tests.support.model_stores import NameServer
from tools.cluster import proxy
from tools.cluster.manifest import Deployment
from tools.cluster.pods import Host, Pod
from tools.cluster.proxy import Envoy, Publisher
from tools.cluster.rollout import Controller
from tools.cluster.sandbox import Image, Storage

PORT, METRICS_PORT = 8001, 8002
NODE_SECONDS = 40.0  # until a cluster notices that a node is dead
POLL = 0.05
HANDLED = re.compile(r'^grpc_server_handled_total\{.*grpc_method="ModelInfer".*\} (\S+)$', re.MULTILINE)


def network() -> str:
    """First three numbers of addresses on loopback, which differ between processes that run at the same time."""
    number = os.getpid() % 2**15
    return f"127.{1 + number // 256}.{number % 256}"


class Cluster:
    """One Deployment, its gateway and its headless Service.

    names   resolves the name of the headless Service
    events  seconds since the start, and text
    """

    def __init__(
        self, folder: Path, deployment: Deployment, storage: Storage, scale: float, delay: float, names: NameServer
    ) -> None:
        self.events: list[tuple[float, str]] = []
        self.scale = scale
        self.names = names
        self._begun = time.monotonic()
        host = Host(folder, network(), Image(), storage, scale, self.report, self._changed)
        self.envoy: Envoy = proxy.start(host.network, folder / "envoy")
        self.publisher = Publisher(delay, self._publish)
        self.controller = Controller(host, deployment)

    @property
    def pods(self) -> list[Pod]:
        """All pods that are not gone."""
        return self.controller.pods

    def report(self, text: str) -> None:
        """Note an event."""
        self.events.append((round(time.monotonic() - self._begun, 2), text))

    def _changed(self) -> None:
        self.publisher.change([pod.address for pod in self.pods if pod.ready and not pod.terminating])

    def _publish(self, addresses: Sequence[str]) -> None:
        self.envoy.write([f"{address}:{PORT}" for address in addresses])
        self.names.addresses[:] = addresses

    async def kill_node(self, node: str) -> None:
        """End all processes of a node. The cluster notices it after NODE_SECONDS and replaces the pods."""
        self.report(f"{node} is dead")
        self.controller.dead_nodes.add(node)
        lost = [pod for pod in self.pods if pod.node == node]
        for pod in lost:
            pod.lose()
        await asyncio.sleep(NODE_SECONDS * self.scale)
        for pod in lost:
            pod.forget()

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition. False if the time limit passes first."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            await asyncio.sleep(POLL)
        return True

    async def inferences(self, pod: Pod) -> float:
        """Number of ModelInfer calls that a pod has handled, from its metrics port; 0 if it does not respond."""

        def read() -> str:
            with urllib.request.urlopen(f"http://{pod.address}:{METRICS_PORT}/metrics", timeout=2) as response:
                return str(response.read(), "utf-8")

        try:
            return sum(map(float, HANDLED.findall(await asyncio.to_thread(read))))
        except OSError:
            return 0.0


@contextlib.asynccontextmanager
async def running(
    folder: Path, deployment: Deployment, storage: Storage, *, scale: float = 1.0, delay: float = 1.0
) -> AsyncIterator[Cluster]:
    """A cluster whose controller runs. `scale`: see `Host`; `delay` of the endpoints, in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    with model_stores.resolving() as names:
        cluster = Cluster(folder, deployment, storage, scale, delay, names)
        controller = asyncio.create_task(cluster.controller.run())
        try:
            yield cluster
        finally:
            controller.cancel()
            await cluster.controller.close()
            cluster.envoy.close()
