"""What a model's numbers are over rows, beside what they were on the rows that its export was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kanexport.manifest import Manifest
from kanserve.backends import Session
from kanserve.interpret import drift
from kanserve.interpret.drift import Drift, Window
from kanserve.nouns import Array
from kanserve.scheduling import merge

OUTPUT = -1  # as a layer: the answers


@dataclass(frozen=True, slots=True)
class NodeStatistics:
    """Of the nodes that a layer is given, or of the outputs (layer -1): what they were, and how far that is from the
    baseline."""

    layer: int
    window: Window
    drift: Drift


def compute(
    session: Session, manifest: Manifest, rows: Mapping[str, Array], *, step: int
) -> Iterator[tuple[NodeStatistics, ...] | None]:
    """Of the nodes that each layer is given, and of the outputs, over `rows` [B, ...] by input: None after each step of
    so many rows, and at last the answer. The manifest has a baseline."""
    baseline, count = manifest.baseline, len(next(iter(rows.values())))
    names = [*(layer.node_tensor for layer in manifest.layers), *(tensor.name for tensor in manifest.outputs)]
    parts = [*baseline.layers, *baseline.outputs]
    windows = [Window(part) for part in parts]
    wanted = [name for name in dict.fromkeys(names) if name not in rows]
    for start in range(0, count, max(1, step)):
        piece = merge.part(rows, start, start + max(1, step))
        values = dict(piece) | dict(zip(wanted, session.run(wanted, piece), strict=True))
        for window, name in zip(windows, names, strict=True):
            window.add(values[name].reshape(-1, values[name].shape[-1]).astype(np.float64))
        yield None
    layers = [*range(len(manifest.layers)), *(OUTPUT for _ in manifest.outputs)]
    yield tuple(
        NodeStatistics(at, window, drift.compare(part, baseline.rows, window, count))
        for at, part, window in zip(layers, parts, windows, strict=True)
    )
