"""What a module takes: one floating-point tensor [rows, ...], and where its rows come from.

Rows are an array or tensor of the user's, a file, or random numbers of a given shape. They
become float64 arrays of numbers that float32 holds, so that graphs of both types can be
given the same ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kanexport.errors import OptionError
from kanexport.hybrid.faults import first_line
from kanexport.shared import csvrows

Array = npt.NDArray[np.float64]

RANDOM_ROWS = 32
ROWS_LIMIT, NUMBERS_LIMIT = 1024, 100_000_000


def rows(example: Any) -> Array:
    """Example rows [B, ...]: an array, a tensor, or a tuple of one of these. Raises OptionError
    for anything else, integers, no rows, and numbers that are not finite."""
    array = _as_array(example)
    if not _are_rows(array):
        kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise OptionError(
            f"the example is {kind}, expected one floating-point tensor [rows, ...]",
            hint="a served model has one input; wrap a module that takes more, or integers, in one that does not",
        )
    if not np.isfinite(array).all():
        raise OptionError("the example rows hold values that are not finite")
    return np.ascontiguousarray(array, dtype=np.float32).astype(np.float64)


def _as_array(example: Any) -> Any:
    """What is inside of a tuple of one; a tensor as an array. bfloat16, which numpy lacks, becomes float32."""
    if isinstance(example, tuple | list) and len(example) == 1:
        example = example[0]
    if isinstance(example, torch.Tensor):
        example = example.detach().cpu()
        return (example.float() if example.dtype == torch.bfloat16 else example).numpy()
    return example


def _are_rows(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim >= 2 and len(array) > 0


def load(path: Path) -> npt.NDArray[Any]:
    """Rows from a .npy or .csv file, at most ROWS_LIMIT. Raises OptionError."""
    try:
        if path.suffix == ".csv":
            text = csvrows.decode(str(path), path.read_bytes())
            array = np.array(csvrows.parse(str(path), text, most=ROWS_LIMIT), np.float32)
        else:
            array = np.load(path, allow_pickle=False, mmap_mode="r")
        if not isinstance(array, np.ndarray):
            raise OptionError(f"{path} holds several arrays, expected one (.npy)")
        return np.array(array[:ROWS_LIMIT])
    except csvrows.CsvError as error:
        raise OptionError(str(error)) from error
    except (OSError, ValueError, EOFError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise OptionError(
            f"{path} cannot be read as rows: {why}", hint="numpy.save('rows.npy', rows), or a .csv"
        ) from error


def draw(shape: str) -> npt.NDArray[np.float32]:
    """RANDOM_ROWS rows of a shape such as "1,8,8" or "1x8x8". Raises OptionError."""
    parts = [part.strip() for part in shape.replace("x", ",").split(",")]
    sizes = [int(part) if part.isdecimal() and len(part) < 10 else 0 for part in parts]
    if not all(sizes) or RANDOM_ROWS * int(np.prod(sizes, dtype=object)) > NUMBERS_LIMIT:
        raise OptionError(f"--input-shape is {shape[:80]!r}, expected the shape of one row, such as 1,8,8")
    return np.random.default_rng(0).normal(size=(RANDOM_ROWS, *sizes)).astype(np.float32)
