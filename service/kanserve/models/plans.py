"""Execution plans that were measured for one model, for the next models of the same form.

A measurement takes 10 ms per model, and more next to live traffic. A server with many models often has many of one
form. It measures the first one, and checks that the plan holds for each other one with a few runs. The check makes sure
that a model with a slow graph and a manifest of the same form neither gets the plan of another model nor passes on its
plan.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from kanexport.shared.manifest import Manifest
from kanserve.execution.config import ExecutionPlan
from kanserve.repository.pbtxt import OperatorConfig

MOST = 256  # forms whose plans are kept


def form(manifest: Manifest) -> object:
    """The properties of a manifest that determine how long an execution takes; hashable."""
    layers = tuple(
        (x.sources, x.destinations, x.positions, tuple((y.kind, y.functions) for y in x.bases)) for x in manifest.layers
    )
    variants = tuple((variant.file, variant.rows) for variant in manifest.variants)
    return manifest.inputs, manifest.outputs, manifest.max_batch_size, manifest.opset, layers, variants


def key(manifest: Manifest, config: OperatorConfig, library: str) -> object:
    """The form, and the settings on which a plan depends. `library`: path of the custom operator; "" without one."""
    return form(manifest), config.max_batch_size, config.threads, config.instances, library


@dataclass(frozen=True, slots=True)
class MeasuredPlan:
    """Measured execution plan.

    plan     the plan
    seconds  time of one run with it, as `tuning.run_seconds` measures it
    """

    plan: ExecutionPlan
    seconds: float


class KnownPlans:
    """Measured plans by form, the latest `MOST` of them. Several threads may use it."""

    def __init__(self) -> None:
        self._plans: OrderedDict[object, MeasuredPlan] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: object) -> MeasuredPlan | None:
        """The plan of a form; None if there is none."""
        with self._lock:
            return self._plans.get(key)

    def keep(self, key: object, measured: MeasuredPlan) -> None:
        """Keep a plan for models of this form, in place of an earlier one."""
        with self._lock:
            self._plans[key] = measured
            self._plans.move_to_end(key)
            while len(self._plans) > MOST:
                self._plans.popitem(last=False)
