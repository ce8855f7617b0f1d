"""Rows that a module is proved with: as given, and beside what was given."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.hybrid.plan import FEW
from kanexport.proof.ports import FLOAT, Ports, join, split

Array = npt.NDArray[np.float64]


def of(ports: Ports, x: Array, count: int) -> dict[str, Array]:
    """Rows of the model by zone, at most so many: as given, and beside what was given."""
    parts = split(ports.inputs, x)
    floating = [part for part, port in zip(parts, ports.inputs, strict=True) if port.kind == FLOAT]
    counts = {name: len(rows) for name, rows in _beside((floating or parts)[0], count).items()}
    zones = [
        _beside(part, count) if port.kind == FLOAT else _drawn(part, counts)
        for part, port in zip(parts, ports.inputs, strict=True)
    ]
    return {name: join([zone[name] for zone in zones]) for name in counts}


def _drawn(ids: Array, counts: dict[str, int]) -> dict[str, Array]:
    """Whole numbers by zone: as given, then drawn place by place from what was seen there, since
    others may mean nothing to the model."""
    rng = np.random.default_rng(0)
    flat = ids.reshape(len(ids), -1)
    zones = {}
    for name, count in counts.items():
        drawn = flat[rng.integers(len(flat), size=(count, flat.shape[1])), np.arange(flat.shape[1])]
        if name == "inside":
            drawn[: len(flat)] = flat[:count]
        zones[name] = drawn.reshape(count, *ids.shape[1:])
    return zones


def _beside(x: Array, count: int) -> dict[str, Array]:
    """Floating-point rows by zone."""
    rng = np.random.default_rng(0)
    inside = x[:count]
    if len(inside) < min(FEW, count):  # a few example rows prove little
        more = inside[rng.integers(len(inside), size=count - len(inside))]
        inside = np.concatenate([inside, more * rng.uniform(0.5, 1.5, size=more.shape)])
    spread, few = float(inside.std()) or 1.0, inside[: min(FEW, (count + 1) // 2)]
    zones = {
        "inside": inside,
        "scaled": np.concatenate([few * 3, few * 0.1]),
        "noise": few + rng.normal(0, spread, size=few.shape),
        "zeros": np.zeros((1, *x.shape[1:])),
    }
    return {name: rows.astype(np.float32).astype(np.float64) for name, rows in zones.items()}
