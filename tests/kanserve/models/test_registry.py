"""Tests of `models/registry.py`."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kanserve.errors import NotFound, Unavailable
from kanserve.models.registry import TRANSITIONS, Event, Registry, State
from kanserve.services.control import Catalogue
from kanserve.system.lifecycle import Lifecycle


def test_a_version_that_is_not_loaded_yet_may_be_asked_again() -> None:
    registry = Registry()
    registry.begin_load("toy", 1)
    for version, text in (("", "'toy' is not at ready state"), ("1", "'toy' version 1 is not at ready state")):
        with pytest.raises(Unavailable, match=f"^Request for unknown model: {text}$"):
            registry.resolve("toy", version)
    assert not Catalogue(registry, Lifecycle()).model_ready("toy", "1")


def test_a_model_is_not_unknown_before_the_server_knows_all_models() -> None:
    registry = Registry()
    for version in ("", "1"):
        with pytest.raises(Unavailable, match=r"^Request for unknown model: 'toy' is not at ready state$"):
            registry.resolve("toy", version)
    registry.add_unloaded("toy", 1)
    with pytest.raises(Unavailable):
        registry.resolve("toy", "")
    registry.complete()
    for name, text in (("other", "'other' is not found"), ("toy", "'toy' has no available versions")):
        with pytest.raises(NotFound, match=f"^Request for unknown model: {text}$"):
            registry.resolve(name, "")


def test_only_what_the_table_says_can_happen() -> None:
    registry = Registry()
    registry.begin_load("m", 1)
    registry.mark_failed("m", 1, "because")
    with pytest.raises(KeyError):
        registry.mark_failed("m", 1, "again")
    assert {state for state in TRANSITIONS.values()} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)


@pytest.mark.parametrize(
    ("required", "reason"),
    [
        ("serving", ""),
        ("all", "ready_requires is all, and bad version 2 does not serve"),
        ("good", ""),
        ("good,bad", "ready_requires is good,bad, and bad does not serve"),
    ],
)
def test_readiness_waits_for_the_versions_that_the_setting_names(required: str, reason: str) -> None:
    registry = Registry(required=required)
    registry.begin_load("good", 1)
    registry.begin_load("bad", 2)
    registry.mark_failed("bad", 2, "a flipped byte")
    assert not registry.ready
    registry.complete()
    assert registry.not_ready_reason == "no version serves"
    registry.swap_in(cast(Any, SimpleNamespace(info=SimpleNamespace(name="good", version=1, manifest=None))))
    assert registry.not_ready_reason == reason
    registry.begin_load("later", 1)
    registry.mark_failed("later", 1, "another")
    assert registry.not_ready_reason == reason
