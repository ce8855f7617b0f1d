"""Tests of `models/plans.py`, and of the plan that a model takes from another model of its form."""

import math
from pathlib import Path

import pytest

from kanserve.config.settings import Settings
from kanserve.execution.config import ExecutionPlan
from kanserve.models import plans, tuning
from kanserve.models.loader import Loader
from kanserve.models.plans import KnownPlans, MeasuredPlan
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from kanserve.repository.layout import Bundle
from kanserve.runtime import base
from tests.support import toy_model


def two(root: Path) -> tuple[Loader, Bundle, Bundle]:
    toy_model.write(root, "a")
    toy_model.write(root, "b")
    settings = Settings(repository=root)
    first, second = (layout.load(item, 2**30) for item in layout.scan(root, plain_onnx=False))
    return Loader(base.load("ort"), settings, 1, Metrics()), first, second


PLAN = ExecutionPlan(3, 0, 7, 1)


@pytest.mark.parametrize(
    ("seconds", "inline", "taken"), [(1.0, 0, True), (1.6, 0, False), (0.6, 0, False), (1.0, 2, False)]
)
def test_a_plan_of_another_model_is_taken_if_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, inline: int, taken: bool
) -> None:
    """Each run takes 1 s, which is too long for the event loop."""
    loader, first, second = two(tmp_path)
    monkeypatch.setattr(tuning, "_best_seconds", lambda *_: 1.0)
    assert first.manifest is not None
    key = plans.key(first.manifest, first.config, "")
    plan = ExecutionPlan(3, inline, 7, 1)
    loader.plans.keep(key, MeasuredPlan(plan, seconds))
    model = loader.load(second)
    assert (model.serving.way == plan) is taken
    model.close()


def test_a_measured_plan_is_kept_for_the_next_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, first, second = two(tmp_path)
    loader.load(first).close()
    assert first.manifest is not None
    known = loader.plans.get(plans.key(first.manifest, first.config, ""))
    assert known is not None
    assert 0 < known.seconds < math.inf
    monkeypatch.setattr(tuning, "plan_holds", lambda *_: True)
    monkeypatch.setattr(Loader, "_way", None)  # nothing is measured
    model = loader.load(second)
    assert model.serving.way == known.plan
    model.close()


def test_the_latest_forms_are_kept() -> None:
    known = KnownPlans()
    for form in range(plans.MOST + 2):
        known.keep(str(form), MeasuredPlan(PLAN, 1.0))
    assert (known.get("1"), known.get("2")) == (None, MeasuredPlan(PLAN, 1.0))
