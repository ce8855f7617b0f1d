"""Counts of calls, values of scenarios, and the table of the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tools.cluster import proxy, scenarios
from tools.cluster.experiment import Experiment
from tools.cluster.load import Count
from tools.cluster.manifest import Deployment, PodSpec, Probe
from tools.cluster.wrong import WRONG


def test_a_call_is_good_wrong_late_rejected_or_lost() -> None:
    count = Count()
    count.add(0.1, None)
    count.add(0.1, None, right=False)
    count.add(1.5, None)
    count.add(0.1, ("UNAVAILABLE", "queue-full", "full"))
    count.add(0.1, ("RESOURCE_EXHAUSTED", "", "full"))
    count.add(0.1, ("UNAVAILABLE", "server-shutting-down", "gone"), moment=2.04)
    assert (count.calls, count.good, count.wrong, count.late, count.rejected, count.lost) == (6, 2, 1, 1, 2, 1)
    assert (count.longest, count.errors, count.moments) == (
        1.5,
        {"UNAVAILABLE: gone": 1},
        {"UNAVAILABLE: gone": [2.0]},
    )


def test_a_client_without_calls_has_not_passed(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, lambda deployment: deployment, 0)
    experiment.outcome.counts = {"a": Count(calls=1, good=1), "b": Count(calls=2, good=1, lost=1)}
    for name, passed in (("a", True), ("b", False), ("c", False)):
        experiment.outcome.checks.clear()
        experiment.zero(name)
        assert experiment.outcome.passed is passed


def test_wrong_charts_differ_in_what_they_name() -> None:
    probe = Probe("grpc", {"port": 1})
    env = (("KANSERVE_DRAIN_DELAY_SECONDS", "5"), ("OTHER", "1"))
    pod = PodSpec((), (), env, (), {}, 36, probe, probe, probe)
    right = Deployment(2, 1, 0, 10, pod)
    changed = {name: wrong.change(right).pod for name, wrong in WRONG.items()}
    assert changed == {
        "grace-period-1s": replace(pod, grace=1.0),
        "drain-delay-0s": replace(pod, env=(("KANSERVE_DRAIN_DELAY_SECONDS", "0"), env[1])),
        "no-readiness-probe": replace(pod, readiness=None),
        "no-startup-and-readiness-probe": replace(pod, startup=None, readiness=None),
    }
    assert {wrong.scenario for wrong in WRONG.values()} <= set(scenarios.SCENARIOS)


def test_both_listeners_of_envoy_have_the_same_endpoints(tmp_path: Path) -> None:
    document = proxy.bootstrap("127.0.1", tmp_path)["static_resources"]
    sources = [cluster["eds_cluster_config"] for cluster in document["clusters"]]
    assert sources[0] == sources[1]
    assert sources[0]["service_name"] == "pods"
    assert [len(listener["additional_addresses"]) for listener in document["listeners"]] == [proxy.COUNT - 1] * 2
