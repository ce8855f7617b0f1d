"""The chart as a cluster of processes behind Envoy: a short rollout. `make stack-test` runs all scenarios."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.helm_chart import program
from tests.support.tiers import full
from tools.cluster import scenarios
from tools.cluster.experiment import HEADLESS
from tools.cluster.manifest import Deployment

pytestmark = full("peer")


def short(deployment: Deployment) -> Deployment:
    """One pod, with a drain delay of 6 s, and without the wait for names in DNS."""
    env = tuple((name, "6" if name == "KANSERVE_DRAIN_DELAY_SECONDS" else value) for name, value in deployment.pod.env)
    return replace(deployment, replicas=1, min_ready=1, pod=replace(deployment.pod, env=env))


def test_a_rollout_loses_no_call(tmp_path: Path) -> None:
    pytest.importorskip("h2corn")
    for name in ("helm", "envoy"):
        program(name)
    outcome = asyncio.run(scenarios.run("rollout", tmp_path, short, delay=0.5))
    failed = [text for text, good in outcome.checks.items() if not good and not text.startswith(HEADLESS)]
    assert not failed, (outcome.counts, outcome.events)
    assert min(count.good for count in outcome.counts.values()) > 50
