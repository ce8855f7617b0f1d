"""Scenarios: an event under load, and the checks of the pods and of the calls."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tools.cluster import objects
from tools.cluster.cluster import Cluster
from tools.cluster.experiment import (
    HEADLESS,
    NO_RETRIES,
    RETRIES,
    START_SECONDS,
    STRICT,
    TRITON,
    Change,
    Experiment,
    Outcome,
    clients,
    triton,
)
from tools.cluster.load import Plan
from tools.cluster.manifest import Deployment
from tools.cluster.pods import Pod
from tools.cluster.proxy import CLUSTER_IP, GATEWAY
from tools.cluster.sandbox import SERVER

DELAY = 3.0  # seconds until gateways and names have a change of the endpoints
CHANGED = {"settings": {"log_level": "warning"}}
AGE = 10  # seconds: maximum age of a connection in the scenario `scale`
FLOOD, FLOOD_CALLERS, FLOOD_RATE, FLOOD_SECONDS = "flood", 48, 400.0, 15.0
LATE = 8.0  # seconds until the server of a new pod starts in the scenario `slow`
SCALE = 0.2  # of the waits in the scenarios in which a cluster waits for a minute


async def rollout(experiment: Experiment) -> None:
    """A changed variable replaces all pods."""
    async with experiment.cluster(experiment.deployment(), objects.models(experiment.folder)) as running:
        plans = clients(running)
        await experiment.loaded([*plans, triton(plans[0])], lambda: replaced(experiment, running, CHANGED))
    experiment.zero(*STRICT)


async def replaced(
    experiment: Experiment, running: Cluster, *values: Any, change: Change = lambda deployment: deployment
) -> None:
    """Apply other values, and wait for the end of the rollout, of the old pods, and of the delay of the endpoints.
    `change`: of the new pods."""
    old = list(running.pods)
    running.controller.apply(change(experiment.deployment(*values)))
    experiment.check("the rollout completes", await running.controller.wait(START_SECONDS))
    experiment.check("the old pods end", await running.until(lambda: all(pod.gone for pod in old), START_SECONDS))
    experiment.check("no old pod gets SIGKILL", not any(pod.killed for pod in old))
    await asyncio.sleep(experiment.delay)


async def node(experiment: Experiment) -> None:
    """All processes of one of two nodes end at once. The cluster notices it after 40 s, here after 8 s."""
    async with experiment.cluster(experiment.deployment(), objects.models(experiment.folder), SCALE) as running:

        async def event() -> None:
            await running.kill_node(running.pods[0].node)
            experiment.check("the pods are replaced", await running.controller.wait(START_SECONDS))
            await asyncio.sleep(experiment.delay)

        await experiment.loaded(clients(running), event)
    experiment.zero(RETRIES, HEADLESS)


async def hung(experiment: Experiment) -> None:
    """SIGSTOP hangs a pod: readiness removes it, and liveness restarts it."""
    short = {"settings": {"drain_grace_seconds": 10}}
    async with experiment.cluster(experiment.deployment(short), objects.models(experiment.folder), SCALE) as running:
        pod = running.pods[0]

        async def event() -> None:
            pod.signal(signal.SIGSTOP)
            removed = await running.until(lambda: not pod.ready, START_SECONDS)
            experiment.check(
                "readiness removes the pod before its restart", removed and not (pod.stopping or pod.restarts)
            )
            experiment.check("liveness restarts the pod", await running.until(lambda: pod.restarts > 0, START_SECONDS))
            experiment.check("the pod is ready again", await running.until(lambda: pod.ready, START_SECONDS))
            await asyncio.sleep(experiment.delay)

        await experiment.loaded(clients(running), event)
    experiment.zero(RETRIES, HEADLESS)


async def slow(experiment: Experiment) -> None:
    """A rollout of one replica, whose server starts late: the new pod gets no call before it is ready."""
    single = {"replicas": 1}
    early: list[str] = []

    def late(deployment: Deployment) -> Deployment:
        command = ("/bin/sh", "-c", f'sleep {LATE:g}; exec "$@"', "sh", *SERVER)
        return replace(deployment, pod=replace(deployment.pod, command=command))

    async with experiment.cluster(experiment.deployment(single), objects.models(experiment.folder)) as running:

        async def watch() -> None:
            while True:
                for pod in [pod for pod in running.pods if pod.revision > 1 and not pod.ready]:
                    if await running.inferences(pod) and not pod.ready:
                        early.append(pod.name)
                await asyncio.sleep(0.2)

        async def event() -> None:
            watching = asyncio.create_task(watch())
            await replaced(experiment, running, single, CHANGED, change=late)
            watching.cancel()

        # One replica: a client of the headless Service needs a second one (docs/guides/serve/replicas.md).
        await experiment.loaded([plan for plan in clients(running) if plan.name != HEADLESS], event)
        (pod,) = running.pods
        seconds = pod.ready_since - pod.created
        experiment.note(f"the new pod is ready after {seconds:.1f} s")
        experiment.check("the first startup probe fails", pod.spec.startup is None or seconds > pod.spec.startup.period)
        experiment.check("no container restarts", not pod.restarts)
    experiment.check("no call reaches a pod before it is ready", not early)
    experiment.zero(RETRIES, NO_RETRIES)


async def overload(experiment: Experiment) -> None:
    """More calls than two pods can handle: the probes still pass, and excess calls are rejected."""
    values = {"settings": {"batching": False, "max_pending_requests": 16, "plain_onnx": True}}
    async with experiment.cluster(
        experiment.deployment(values), objects.heavy_models(experiment.folder), SCALE / 2
    ) as running:
        addresses = tuple(running.envoy.address(GATEWAY, number) for number in range(FLOOD_CALLERS))
        flood = Plan(FLOOD, "kanserve", addresses, FLOOD_RATE, model="heavy", width=objects.HEAVY_WIDTH)

        async def event() -> None:
            await experiment.loaded([flood], lambda: asyncio.sleep(FLOOD_SECONDS), nice=10)

        await experiment.loaded(clients(running), event)
        experiment.check("no container restarts", not any(pod.restarts for pod in running.pods))
        experiment.check("all pods are ready", all(pod.ready for pod in running.pods))
    experiment.check("excess calls are rejected", experiment.outcome.counts[FLOOD].rejected > 0)
    experiment.zero(RETRIES, HEADLESS, FLOOD)


async def scale(experiment: Experiment) -> None:
    """From 2 to 4 pods behind a ClusterIP, which balances connections, not requests."""
    values = {"settings": {"max_connection_age_seconds": AGE}}
    async with experiment.cluster(experiment.deployment(values), objects.models(experiment.folder)) as running:
        through = [plan for plan in clients(running, CLUSTER_IP) if plan.name != HEADLESS]

        async def event() -> None:
            running.controller.apply(experiment.deployment(values, {"replicas": 4}))
            ready = await running.until(lambda: sum(pod.ready for pod in running.pods) == 4, START_SECONDS)
            experiment.check("4 pods are ready", ready)
            limit = 1.1 * AGE + experiment.delay + 2
            new = sorted(running.pods, key=lambda pod: pod.number)[2:]
            waits = await asyncio.gather(*(first_call(running, pod, limit) for pod in new))
            experiment.check(f"new pods get calls within {limit:.0f} s", max(waits) <= limit)
            experiment.note(
                f"new pods get calls {' and '.join(f'{wait:.1f}' for wait in waits)} s after they are ready"
            )

        await experiment.loaded([*through, triton(through[0])], event)
    experiment.zero(RETRIES, NO_RETRIES, TRITON)


async def first_call(running: Cluster, pod: Pod, limit: float) -> float:
    """Seconds from the readiness of a pod to its first call; more than `limit` if it has none by then."""
    while not await running.inferences(pod) and time.monotonic() <= pod.ready_since + limit:
        await asyncio.sleep(0.1)
    return time.monotonic() - pod.ready_since


async def tls(experiment: Experiment) -> None:
    """A rollout with TLS and tokens, behind a ClusterIP."""
    storage, credentials = objects.secured(experiment.folder)
    values = {
        "insecure": False,
        "tls": {"secretName": "tls", "serverName": "localhost"},
        "tokens": {"secretName": "tokens"},
    }
    async with experiment.cluster(experiment.deployment(values), storage) as running:
        plans = clients(running, CLUSTER_IP, **asdict(credentials))
        await experiment.loaded(plans, lambda: replaced(experiment, running, values, CHANGED))
    experiment.zero(RETRIES, NO_RETRIES, HEADLESS)


SCENARIOS: dict[str, Callable[[Experiment], Awaitable[None]]] = {
    "rollout": rollout,
    "node": node,
    "hung": hung,
    "slow": slow,
    "overload": overload,
    "scale": scale,
    "tls": tls,
}


async def run(name: str, folder: Path, change: Change = lambda deployment: deployment, delay: float = DELAY) -> Outcome:
    """Run a scenario. `change`, `delay`: see Experiment. Raises download.Unavailable, ManifestError or RuntimeError."""
    begun = time.monotonic()
    experiment = Experiment(folder, change, delay)
    await SCENARIOS[name](experiment)
    experiment.outcome.seconds = round(time.monotonic() - begun, 1)
    return experiment.outcome
