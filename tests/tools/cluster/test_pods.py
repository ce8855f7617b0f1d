"""Pods and rollouts with small real processes: thresholds, restarts, grace period, surge."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.wait import until_async
from tools.cluster.manifest import PodSpec, Probe
from tools.cluster.pods import Host, Pod
from tools.cluster.probes import Verdict, watch
from tools.cluster.rollout import Counts, step
from tools.cluster.sandbox import Image, Storage

SHELL = "/bin/sh"
SPEC = PodSpec((), (), (), (), {}, grace=60, startup=None, readiness=None, liveness=None)


def test_a_verdict_changes_after_equal_results_in_a_row() -> None:
    verdict = Verdict(Probe("exec", {}, failures=3, successes=2), passing=True)
    assert [verdict.add(good) for good in (False, False, True, False, False, False)] == [False] * 5 + [True]
    assert not verdict.passing
    assert [verdict.add(good) for good in (True, False, True, True)] == [False, False, False, True]
    assert verdict.passing


def test_the_period_includes_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses, runs = 0.0, list[float](), iter([True, True, False])

    async def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(seconds)
        now += seconds

    async def once() -> bool:
        nonlocal now
        now += 4.0
        return next(runs)

    async def run() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        probe = Probe("exec", {}, period=10, initial_delay=3, failures=1)
        await watch(once, probe, 0.5, lambda v: v.passing, passing=True)

    asyncio.run(run())
    assert pauses == [1.5, 1.0, 1.0]


@pytest.mark.parametrize(
    ("counts", "replicas", "surge", "unavailable", "expected"),
    [
        (Counts(0, 0, 2, 2), 2, 1, 0, (1, 0, 0)),
        (Counts(1, 0, 2, 2), 2, 1, 0, (0, 0, 0)),
        (Counts(1, 1, 2, 2), 2, 1, 0, (0, 1, 0)),
        (Counts(1, 1, 1, 1), 2, 1, 0, (1, 0, 0)),
        (Counts(2, 2, 1, 1), 2, 1, 0, (0, 1, 0)),
        (Counts(0, 0, 4, 4), 4, 0, 1, (0, 1, 0)),
        (Counts(0, 0, 4, 4), 4, 2, 1, (2, 1, 0)),
        (Counts(1, 0, 2, 0), 2, 1, 0, (0, 0, 0)),
        (Counts(1, 1, 2, 1), 2, 1, 0, (0, 1, 0)),
        (Counts(4, 4, 0, 0), 2, 1, 0, (0, 0, 2)),
        (Counts(2, 2, 0, 0), 4, 1, 0, (2, 0, 0)),
    ],
)
def test_a_step_of_a_rollout(
    counts: Counts, replicas: int, surge: int, unavailable: int, expected: tuple[int, int, int]
) -> None:
    assert tuple(step(counts, replicas, surge, unavailable)) == expected


@pytest.mark.parametrize(("script", "killed"), [("trap 'test -e hook && exit 0' TERM", False), ("trap '' TERM", True)])
def test_a_pod_that_ignores_sigterm_is_killed_after_the_grace_period(
    tmp_path: Path, script: str, *, killed: bool
) -> None:
    endless = (SHELL, "-c", f"cd {tmp_path}; {script}; touch trapped; while :; do sleep 0.02; done")
    hook = {"exec": {"command": [SHELL, "-c", f"touch {tmp_path}/hook"]}}  # runs before SIGTERM
    spec = replace(SPEC, command=endless, grace=1.0 if killed else 60.0, pre_stop=hook)

    async def run() -> Pod:
        host = Host(tmp_path, "127.0.1", Image(), Storage(), 1.0, lambda event: None, lambda: None)
        pod = Pod(1, spec, 1, "a", host)
        pod.start()
        await until_async(lambda: pod.ready and (tmp_path / "trapped").exists())
        pod.delete()
        assert pod.terminating
        await until_async(lambda: pod.gone)
        assert (tmp_path / "hook").exists()
        return pod

    assert asyncio.run(run()).killed is killed
