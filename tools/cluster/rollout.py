"""Deployment controller: the pods that a rollout creates and deletes, and its end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from tools.cluster.manifest import Deployment, limits
from tools.cluster.pods import Host, Pod

STEP = 0.05  # seconds between two decisions
NODES = ("node-a", "node-b")


class Counts(NamedTuple):
    """Pods that are not terminating, and those of them that are available, by revision: the new one and all others."""

    new: int
    new_available: int
    old: int
    old_available: int


class Step(NamedTuple):
    """Pods to create, and pods of the old and the new revision to delete."""

    create: int
    delete_old: int
    delete_new: int


def step(counts: Counts, replicas: int, surge: int, unavailable: int) -> Step:
    """The next step of a rolling update, by the rules of the Deployment controller.

    New pods: up to `replicas`, and at most `replicas + surge` pods in all. Old pods: those that are not available, as
    far as the missing new pods permit it, and available ones down to `replicas - unavailable` available pods.
    """
    minimum, total = replicas - unavailable, counts.new + counts.old
    create = max(0, min(replicas - counts.new, replicas + surge - total))
    delete_new = max(0, counts.new - replicas)
    spare = max(0, total - delete_new - minimum - (counts.new - delete_new - counts.new_available))
    broken = min(counts.old - counts.old_available, spare)
    ready = max(0, min(counts.old_available, counts.new_available + counts.old_available - minimum, spare - broken))
    return Step(create, broken + ready, delete_new)


class Controller:
    """Controller of one Deployment. `pods` has all pods that are not gone."""

    def __init__(self, host: Host, deployment: Deployment) -> None:
        self.host, self.deployment = host, deployment
        self.replicas = deployment.replicas
        self.revision = 1
        self.pods: list[Pod] = []
        self.dead_nodes: set[str] = set()
        self._numbers = itertools.count(1)

    def apply(self, deployment: Deployment) -> None:
        """Replace the Deployment, as `helm upgrade` does. A changed pod begins a rollout."""
        self.revision += deployment.pod != self.deployment.pod
        self.deployment, self.replicas = deployment, deployment.replicas

    async def run(self) -> None:
        """Take steps until the task is cancelled."""
        while True:
            self.pods = [pod for pod in self.pods if not pod.gone]
            self._step()
            await asyncio.sleep(STEP)

    def complete(self) -> bool:
        """Whether all replicas are available in the current revision, and all other pods are terminating."""
        counts = self._counts()
        return counts.old == 0 and counts.new == counts.new_available == self.replicas

    async def wait(self, seconds: float) -> bool:
        """Wait until the rollout is complete. False if the time limit passes first."""
        end = asyncio.get_running_loop().time() + seconds
        while not self.complete():
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(STEP)
        return True

    async def close(self) -> None:
        """End all processes."""
        await asyncio.gather(*(pod.close() for pod in self.pods))

    def _counts(self) -> Counts:
        seconds = self.deployment.min_ready * self.host.scale
        new, old = self._alive(new=True), self._alive(new=False)
        return Counts(
            len(new), sum(p.available(seconds) for p in new), len(old), sum(p.available(seconds) for p in old)
        )

    def _alive(self, *, new: bool) -> list[Pod]:
        return [pod for pod in self.pods if not pod.terminating and (pod.revision == self.revision) is new]

    def _step(self) -> None:
        made = step(self._counts(), self.replicas, *limits(self.deployment, self.replicas))
        for pods, count in ((self._alive(new=False), made.delete_old), (self._alive(new=True), made.delete_new)):
            for pod in _victims(pods)[:count]:
                pod.delete()
        for _ in range(made.create):
            self._create()

    def _create(self) -> None:
        nodes = [node for node in NODES if node not in self.dead_nodes]
        used = [pod.node for pod in self.pods if not pod.terminating]
        node = min(nodes, key=used.count)
        pod = Pod(next(self._numbers), self.deployment.pod, self.revision, node, self.host)
        self.pods.append(pod)
        pod.start()


def _victims(pods: Sequence[Pod]) -> list[Pod]:
    """Pods in the order of their deletion: those that are not ready first, then the newest."""
    return sorted(pods, key=lambda pod: (pod.ready, -pod.number))
