"""One run of a scenario: its cluster, its clients, its checks and its result."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tools.cluster import cluster, load, manifest
from tools.cluster.cluster import PORT, Cluster
from tools.cluster.load import Count, Plan
from tools.cluster.manifest import Deployment
from tools.cluster.proxy import COUNT, GATEWAY
from tools.cluster.sandbox import Storage

START_SECONDS = 60.0
RATE = 15.0  # calls per second of each kind of client
BEFORE, AFTER = 1.0, 2.0  # seconds of load before and after the event
RETRIES, NO_RETRIES, TRITON, HEADLESS = "Client", "Client, retries=0", "tritonclient", "Client, headless"
STRICT = (RETRIES, NO_RETRIES, TRITON, HEADLESS)
VALUES: dict[str, Any] = {
    "insecure": True,
    "image": {"repository": "registry.example/kanserve"},
    "models": {"pvc": {"claimName": "models"}},
    "settings": {"threads": 1, "access_log": "none"},
}
Change = Callable[[Deployment], Deployment]


@dataclass(slots=True)
class Outcome:
    """Result of a scenario: counts by kind of client, checks by their text, notes, seconds, and the events."""

    counts: dict[str, Count] = field(default_factory=dict)
    checks: dict[str, bool] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all checks hold."""
        return all(self.checks.values())


@dataclass(slots=True)
class Experiment:
    """A run. `change`: applied to each Deployment, to test a wrong chart; `delay` of the endpoints, in seconds."""

    folder: Path
    change: Change
    delay: float
    outcome: Outcome = field(default_factory=Outcome)

    def deployment(self, *values: Mapping[str, Any]) -> Deployment:
        """The rendered Deployment of VALUES and these."""
        together: dict[str, Any] = VALUES
        for each in values:
            together = merged(together, each)
        return self.change(manifest.deployment(manifest.render(together)))

    @contextlib.asynccontextmanager
    async def cluster(self, deployment: Deployment, storage: Storage, scale: float = 1.0) -> AsyncIterator[Cluster]:
        """A cluster whose pods are ready and published. Raises RuntimeError with the log of a pod that is not ready."""
        async with cluster.running(self.folder, deployment, storage, scale=scale, delay=self.delay) as running:
            self.outcome.events = running.events
            count = deployment.replicas
            if not await running.until(lambda: len(running.publisher.published) == count, START_SECONDS):
                logs = [pod.log.read_text() for pod in running.pods if not pod.ready]
                raise RuntimeError(f"pods are not ready within {START_SECONDS:.0f} s: {logs}")
            yield running

    def check(self, text: str, good: bool) -> None:
        """Note a check."""
        self.outcome.checks[text] = good

    def note(self, text: str) -> None:
        """Note a measured fact."""
        self.outcome.notes.append(text)

    def zero(self, *names: str) -> None:
        """Check that these clients lost no call and got no wrong response."""
        for name in names:
            count = self.outcome.counts.get(name, Count())
            self.check(f"{name}: calls sent, 0 lost, 0 wrong", count.good > 0 and count.lost == count.wrong == 0)

    async def loaded(self, plans: list[Plan], event: Callable[[], Awaitable[None]], nice: int = 0) -> None:
        """Run an event under load."""
        running = await load.start(plans, nice)
        try:
            await asyncio.sleep(BEFORE)
            await event()
            await asyncio.sleep(AFTER)
            self.outcome.counts |= await running.end()
        finally:
            running.kill()


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Two values files, as helm merges them."""
    result = dict(first)
    for key, value in second.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def clients(running: Cluster, port: int = GATEWAY, **options: Any) -> list[Plan]:
    """kanserve.Client through Envoy with and without retries, and with the headless Service. `options` of the client.

    Callers of one address share a connection. So each kind has other addresses.
    """
    addresses = tuple(running.envoy.address(port, number) for number in range(COUNT))
    half = COUNT // 2
    return [
        Plan(RETRIES, "kanserve", addresses[:half], RATE, retries=3, options=options),
        Plan(NO_RETRIES, "kanserve", addresses[half:], RATE, options=options),
        Plan(HEADLESS, "kanserve", (running.names.target(PORT),) * half, RATE, retries=3, options=options),
    ]


def triton(plan: Plan) -> Plan:
    """The same with tritonclient, which repeats no call."""
    return replace(plan, name=TRITON, kind="triton", retries=0, options={})
