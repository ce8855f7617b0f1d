"""Traffic for tests of statistics: rows of a known distribution, a server that samples them, and waits."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from kanserve.types import Array
from tests.support import toy_model
from tests.support.server_process import Server
from tests.support.wait import until as until

RNG = np.random.default_rng(9)


TRAIN = RNG.normal(size=(2000, 3)).astype(np.float32)


SECONDS = 60


def draw(count: int, *, moved: float = 0.0) -> np.ndarray:
    rows = RNG.normal(size=(count, 3)).astype(np.float32)
    rows[:, 2] += moved
    return rows


def value(server: Server, name: str, layer: str = "") -> float:
    """Return the value of a metric of the toy model, or -1 if the metric is missing."""
    first = f'layer="{layer}",' if layer else ""
    result = re.search(rf'^{name}{{{first}model="toy",version="\d+"}} (\S+)$', server.metrics(), re.MULTILINE)
    return float(result[1]) if result else -1.0


def run(names: Any, rows: Any) -> list[Array]:
    """The toy's graph."""
    result = {"layer1_in": toy_model.hidden(rows["x"]), "y": toy_model.outputs(rows["x"])}
    return [result[name] for name in names]
