"""Storage of coefficients in a quantized graph: float16, or one byte each with a scale per column.

The numbers that are rounded are those of a layer, [I, O, K] with its mask in them, before any scale that a graph's form
leaves to them: so every graph of a model stores the same. Rounding what was rounded changes nothing, so that a network
with rounded coefficients is what its graphs mean.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, option_value_unknown

FULL, HALF, BYTES = "float", "half", "int8"
# The largest code of a weight and of a function's value. Two products of both fit 16 bits, which is where processors
# with AVX2 and without VNNI add them: 2 * 127 * 127 < 2^15. With 255 such a machine would give other sums, unasked.
LARGEST = 127
LARGEST_HALF = 65504.0  # of float16
DEPTH = 2**31 // (LARGEST + 1) ** 2  # products that an int32 holds the sum of

Array = npt.NDArray[np.float64]


def half(values: Array) -> npt.NDArray[np.float16]:
    """Values rounded to float16. Raises InvalidKan for a value that is too large."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise InvalidKan(
            f"a weight of {np.abs(values).max():.3g} is too large for float16, expected at most {LARGEST_HALF:g}",
            code="weights-too-large",
            hint="export without --quantize fp16-weights",
        )
    return halves


def scales(values: Array) -> Array:
    """[I, O, K] -> [O]: the unit of each column, as a float32 number."""
    most = np.maximum(values.max(axis=(0, 2)), -values.min(axis=(0, 2)))
    steps = (most / LARGEST).astype(np.float32).astype(np.float64)
    return np.where(steps > 0, steps, 1.0)


def codes(values: Array, unit: Array) -> npt.NDArray[np.int8]:
    """[I, O, K], each in units [O] of its column; halves to even."""
    return np.clip(np.rint(values / unit[:, None]), -LARGEST, LARGEST).astype(np.int8)


def rounded(values: Array, how: str) -> Array:
    """The values of the stored numbers, [I, O, K]."""
    if how == HALF:
        return half(values).astype(np.float64)
    if how == BYTES:
        unit = scales(values)
        return codes(values, unit) * unit[:, None]
    return values


# The types a graph can have, and the Open Inference Protocol's names for them.
DATATYPES = {"float32": "FP32", "float64": "FP64"}
# The types a checkpoint's tensors can have, widest first.
STORED = ("float64", "float32", "float16", "bfloat16")
DIGITS = {"float16": "3.3 decimal digits each", "bfloat16": "2.4 decimal digits each"}  # 11 and 8 bits


def check(dtype: str) -> None:
    """Raises OptionError for a type that a graph cannot have."""
    if dtype not in DATATYPES:
        raise option_value_unknown(
            f"dtype is {dtype!r}, expected float32 or float64", hint="pass --dtype float32 or float64"
        )


def rounding(dtype: str) -> float:
    """The largest relative error of rounding one number to the type of a graph."""
    return float(np.finfo(dtype).eps) / 2


def notes(stored: str, dtype: str) -> tuple[str, ...]:
    """Notes for a model with different types in checkpoint and graph."""
    if stored == "float64" and dtype == "float32":
        return ("the checkpoint is float64 and the graph float32; export with --dtype float64 for full precision",)
    if stored in DIGITS:
        return (
            f"the weights of the checkpoint are {stored}, {DIGITS[stored]}; the graph computes with these values in "
            f"{dtype}, and a library that computes in {stored} has larger rounding errors",
        )
    return ()
