"""Whether what a manifest says that the nodes were on the user's data fits its model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from kanexport.manifest import Manifest
from kanexport.shared.baseline import NodeBaseline

AXES = 16  # more of a row are none of a model


def faults(manifest: Manifest) -> Iterator[str]:
    """In words; none at all is fine."""
    found = manifest.baseline
    if not found.rows:
        return
    if len(found.layers) != len(manifest.layers):
        yield f"the baseline has {len(found.layers)} layers, expected {len(manifest.layers)}"
    numbers = sum(math.prod(tensor.shape[1 : AXES + 1]) for tensor in manifest.inputs)
    if len(found.mean) != numbers:
        yield f"the baseline's mean has {len(found.mean)} numbers, expected {numbers}"
    if len(found.outputs) != len(manifest.outputs):
        yield f"the baseline has {len(found.outputs)} outputs, expected {len(manifest.outputs)}"
    parts = [
        *((f"layer {at}", one) for at, one in enumerate(found.layers)),
        *(("output", one) for one in found.outputs),
    ]
    yield from (f"{name}: {fault}" for name, part in parts if (fault := _part(part)))


def _part(layer: NodeBaseline) -> str:
    """The first that is wrong, or ""."""
    nodes = len(layer.counts)
    lengths = {len(layer.nonfinite), len(layer.mean), len(layer.std)}
    if lengths != {nodes} or len(layer.cells) not in (1, nodes) or not nodes:
        return f"the baseline's lists are not one for each of {nodes} nodes"
    if not all(map(_ascending, layer.cells)):
        return "the bounds of the baseline's cells do not ascend"
    cells = layer.cells * nodes if len(layer.cells) == 1 else layer.cells
    fit = all(len(one) == len(own) + 1 and min(one) >= 0 for one, own in zip(layer.counts, cells, strict=True))
    return "" if fit else "the baseline's counts are not those of its cells"


def _ascending(bounds: Sequence[float]) -> bool:
    return len(bounds) > 1 and all(one < following for one, following in itertools.pairwise(bounds))
