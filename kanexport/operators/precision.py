"""Which floating-point type means what: of a checkpoint's tensors, and of the graph made of them.

A checkpoint is read into float64 whatever it stores; the graph computes in float32 or
float64, as the user asks with `--dtype`.
"""

from __future__ import annotations

import numpy as np

from kanexport.errors import OptionError

# The types a graph can have, and the Open Inference Protocol's names for them.
DATATYPES = {"float32": "FP32", "float64": "FP64"}
# The types a checkpoint's tensors can have, widest first.
STORED = ("float64", "float32", "float16", "bfloat16")
DIGITS = {"float16": "3.3 decimal digits each", "bfloat16": "2.4 decimal digits each"}  # 11 and 8 bits


def check(dtype: str) -> None:
    """Raises OptionError for a type that no graph has."""
    if dtype not in DATATYPES:
        raise OptionError(f"dtype is {dtype!r}, expected float32 or float64")


def rounding(dtype: str) -> float:
    """The largest relative error of rounding one number to a graph's type."""
    return float(np.finfo(dtype).eps) / 2


def notes(stored: str, dtype: str) -> tuple[str, ...]:
    """What a reader of the numbers should know where checkpoint and graph differ in type."""
    if stored == "float64" and dtype == "float32":
        return ("the checkpoint is float64 and the graph float32; --dtype float64 keeps full precision",)
    if stored in DIGITS:
        return (
            f"the checkpoint's weights are {stored}, {DIGITS[stored]}; the graph computes with these values in "
            f"{dtype}, and a source that computes in {stored} rounds more than that",
        )
    return ()
