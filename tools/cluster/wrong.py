"""Wrong charts that a scenario has to find: values that no schema rejects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tools.cluster.experiment import Change
from tools.cluster.manifest import PodSpec


@dataclass(frozen=True, slots=True)
class Wrong:
    """A scenario that has to fail with a changed Deployment."""

    scenario: str
    change: Change


def _pods(change: Callable[[PodSpec], PodSpec]) -> Change:
    """A change of the pods. The rollout does not wait, which makes the scenario shorter."""
    return lambda deployment: replace(deployment, min_ready=0, pod=change(deployment.pod))


def _variable(name: str, value: str) -> Change:
    return _pods(lambda pod: replace(pod, env=tuple((key, value if key == name else old) for key, old in pod.env)))


WRONG = {
    "grace-period-1s": Wrong("rollout", _pods(lambda pod: replace(pod, grace=1.0))),
    "drain-delay-0s": Wrong("rollout", _variable("KANSERVE_DRAIN_DELAY_SECONDS", "0")),
    "no-readiness-probe": Wrong("hung", _pods(lambda pod: replace(pod, readiness=None))),
    "no-startup-and-readiness-probe": Wrong("slow", _pods(lambda pod: replace(pod, startup=None, readiness=None))),
}
