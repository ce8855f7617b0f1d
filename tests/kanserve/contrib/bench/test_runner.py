"""Tests of `bench/runner.py`."""

import numpy as np

from kanserve.contrib.bench import runner


def test_calls_are_timed_in_turns() -> None:
    called: list[str] = []
    done: list[int] = []
    calls = {name: lambda name=name: called.append(name) for name in "ab"}  # type: ignore[misc] # the loop's own name
    seconds = runner.measure(calls, 3, least=0.0, after=lambda: done.append(len(called)))
    assert "".join(called) == "aabb" * 3  # the first of each is not counted
    assert done == [4, 8, 12]
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_figures_of_turns() -> None:
    ours, other = np.array([1.0, 2.0, 4.0, 8.0, 100.0]), np.array([3.0, 6.0, 12.0, 24.0, 100.0])
    result = runner.spread(ours)
    assert (result.lower, result.median, result.upper) == (2.0, 4.0, 8.0)
    assert runner.ratio(other, ours) == 3.0  # what disturbed both does not count
    assert runner.ratio(ours, ours) == 1.0
