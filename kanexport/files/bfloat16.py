"""bfloat16, which numpy lacks: widened to float32 on reading, and remembered.

The upper half of a float32 is a bfloat16, so widening is exact. The array's dtype
carries the name it was stored under as numpy metadata; everything else sees float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_KEY = "stored"
_WIDENED = np.dtype(np.float32, metadata={_KEY: "bfloat16"})


def widen(bits: Array) -> Array:
    """From the 16 bits of each value, in any byte order, to contiguous float32 of the same shape."""
    wide = np.ascontiguousarray(bits.astype("u4") << 16)
    return wide.view(_WIDENED).reshape(bits.shape)


def stored(array: Array) -> str:
    """The type the file had: "bfloat16", or the array's own."""
    metadata: Mapping[str, Any] = array.dtype.metadata or {}
    return str(metadata.get(_KEY, array.dtype.name))
