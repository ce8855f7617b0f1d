"""Counts of calls, values of scenarios, and the table of the command."""

from pathlib import Path

from tools.cluster.experiment import Experiment
from tools.cluster.load import Count


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
