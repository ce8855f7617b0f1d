"""From the tensors of one library to a `Kan`; one file each, found by its name.

A reader module has `FAMILY`, `matches(checkpoint) -> str` (why it fits, or
empty) and `read(checkpoint, options) -> Kan`. Adding a library is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from kanexport.checkpoint import Checkpoint
from kanexport.errors import FamilyError, InvalidKan
from kanexport.ir import Kan
from kanexport.options import Options

Array = npt.NDArray[np.float64]


class Reader(Protocol):
    """What a reader module offers."""

    FAMILY: str

    def matches(self, checkpoint: Checkpoint) -> str:
        """Why the checkpoint is of this family, or an empty text."""

    def read(self, checkpoint: Checkpoint, options: Options) -> Kan:
        """Raises InvalidKan, OptionError or CheckpointError."""


def readers() -> dict[str, Reader]:
    """All readers of this folder by family name."""
    modules = [importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__)]
    return {str(cast(Any, module).FAMILY): cast(Reader, module) for module in modules}


def detect(checkpoint: Checkpoint, family: str | None) -> tuple[Reader, str]:
    """The reader for a checkpoint and why. Raises FamilyError with the candidates."""
    known = readers()
    if family is not None:
        if family not in known:
            raise FamilyError(f"unknown family {family[:80]!r}", hint="known: " + ", ".join(known))
        return known[family], "given with --family"
    reasons = {name: reader.matches(checkpoint) for name, reader in known.items()}
    fitting = [name for name, reason in reasons.items() if reason]
    if len(fitting) == 1:
        return known[fitting[0]], reasons[fitting[0]]
    if fitting:
        raise FamilyError(f"the tensors fit {' and '.join(fitting)}", hint=f"say which: --family {' | '.join(fitting)}")
    keys = ", ".join(f"{key} {value.shape}" for key, value in list(checkpoint.tensors.items())[:5])
    raise FamilyError(
        f"{checkpoint.path}: no known KAN library writes these tensors: {keys}",
        hint=f"families that are read: {', '.join(known)}",
    )


def tensor(checkpoint: Checkpoint, key: str, shape: tuple[int, ...]) -> Array:
    """A tensor of exactly that shape, as float64. Raises InvalidKan naming the key."""
    value = checkpoint.tensors.get(key)
    if value is None:
        raise InvalidKan(f"{checkpoint.path}: tensor {key!r} is missing")
    if value.shape != shape:
        raise InvalidKan(f"{checkpoint.path}: tensor {key!r} has shape {value.shape}, expected {shape}")
    return real(value, key)


def real(value: npt.NDArray[Any], key: str) -> Array:
    """As float64. Values that are not finite pass; `Layer` refuses them by name."""
    if value.dtype.kind not in "fiub":
        raise InvalidKan(f"tensor {key!r} is {value.dtype}, expected real numbers")
    with np.errstate(invalid="ignore"):  # a signalling NaN
        return value.astype(np.float64)


def product(a: Array, b: Array) -> Array:
    """a * b, where not all may be finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(a * b)


def storage_dtype(tensors: list[npt.NDArray[Any]]) -> str:
    """ "float64" if a tensor is stored so, else "float32" (which holds the 16-bit types)."""
    return "float64" if any(value.dtype == np.float64 for value in tensors) else "float32"
