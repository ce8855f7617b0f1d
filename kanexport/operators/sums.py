"""Sums over an axis that give a row the same bits wherever it lies and whoever is beside it.

onnxruntime's ReduceSum does not: in a row whose length is no multiple of a vector's it begins at the next address
that is one, so that the order depends on where the row begins; and it sums the rows of a batch of one by another
routine than those of several. A product with ones adds up in one order, whatever the number of rows.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

VECTOR = 4  # entries: a length that is a multiple of it is summed from the first on, in float32 and float64
FEW = 2  # entries, which have one order

Shape = tuple[int | None, ...]  # None for the batch


def ones(shape: Shape, axis: int) -> npt.NDArray[np.float64] | None:
    """What a tensor of this shape is multiplied by: [K, 1] from the right for the last axis, [1, K] from the left for
    the one before. None where ReduceSum is as good, or where there is no such product."""
    if not 0 < axis < len(shape) or None in shape[1:]:
        return None
    count, after = shape[axis], len(shape) - 1 - axis
    if count is None or count <= FEW or after > 1:
        return None
    if after == 0:
        return None if count % VECTOR == 0 else np.ones((count, 1))
    return np.ones((1, count))


def without(shape: Shape, axis: int) -> list[int]:
    """The shape without an axis, for a Reshape that keeps the batch."""
    return [0, *(size or 0 for at, size in enumerate(shape) if at not in (0, axis))]
