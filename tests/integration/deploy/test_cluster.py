"""The chart as a cluster of processes behind Envoy: a short rollout. `make stack-test` runs all scenarios."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.helm_chart import program
from tools.cluster import scenarios
from tools.cluster.manifest import Deployment

pytestmark = pytest.mark.slow


def short(deployment: Deployment) -> Deployment:
    """One pod, whose successor need not be ready for long."""
    return replace(deployment, replicas=1, min_ready=2)


def test_a_rollout_loses_no_call(tmp_path: Path) -> None:
    pytest.importorskip("h2corn")
    for name in ("helm", "envoy"):
        program(name)
    outcome = asyncio.run(scenarios.run("rollout", tmp_path, short, delay=0.5))
    assert outcome.passed, (outcome.checks, outcome.counts, outcome.events)
