"""Tests of `models/events.py`."""

from kanserve.models.events import KEPT, LONG, History


def test_history_forgets_what_is_old() -> None:
    history = History()
    for version in range(KEPT + 5):
        history.add("loaded", "toy", version, "x" * 1000)
    latest = history.latest()
    assert (len(latest), latest[0].version, latest[-1].version) == (KEPT, KEPT + 4, 5)
    assert len(latest[0].text) == LONG
