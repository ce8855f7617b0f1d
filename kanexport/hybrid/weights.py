"""A checkpoint's tensors put into the user's module, wherever a trainer put them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import CheckpointError
from kanexport.files import checkpoint
from kanexport.manifest import SourceFile

T = TypeVar("T")

COMPILED = "_orig_mod."  # torch.compile names what it wraps
NAMED = 4  # tensors in an error
SIZES = "the factory must build the module with the sizes it was trained with"


def load(module: nn.Module, path: Path) -> tuple[SourceFile, ...]:
    """Load weights through our own reader, which executes nothing, and say which files they
    came from. Raises CheckpointError if they are not this module's: every tensor must be
    there, none over, each of its shape."""
    loaded = checkpoint.load(path)
    wanted = _uncompiled(module.state_dict())
    state = _without_prefix(_uncompiled(loaded.tensors), wanted)
    _require_names(path, state, wanted)
    _require_shapes(path, state, wanted)
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}
    module.load_state_dict({key: tensors[key.replace(COMPILED, "")] for key in module.state_dict()})
    return loaded.files


def _uncompiled(state: Mapping[str, T]) -> dict[str, T]:
    return {key.replace(COMPILED, ""): value for key, value in state.items()}


def _without_prefix(tensors: dict[str, npt.NDArray[Any]], wanted: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The module's own tensors where a trainer put it under a prefix: `module.` of
    DataParallel, `model.` of many; what lies beside it there is the trainer's."""
    if not wanted or set(wanted) <= set(tensors):
        return tensors
    first = next(iter(wanted))
    prefixes = [key.removesuffix(first) for key in tensors if key.endswith("." + first)]
    complete = [prefix for prefix in prefixes if all(prefix + key in tensors for key in wanted)]
    if len(complete) != 1:
        return tensors
    return {key: tensors[complete[0] + key] for key in wanted}


def _require_names(path: Path, state: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    missing, extra = [key for key in wanted if key not in state], [key for key in state if key not in wanted]
    if missing or extra:
        names = ", ".join([f"-{key}" for key in missing[:NAMED]] + [f"+{key}" for key in extra[:NAMED]])
        raise CheckpointError(
            f"{path}: the weights are not this module's: {len(missing)} tensors are missing, {len(extra)} are unknown "
            f"({names})",
            hint=SIZES,
        )


def _require_shapes(path: Path, state: Mapping[str, npt.NDArray[Any]], wanted: Mapping[str, Any]) -> None:
    for key, value in state.items():
        shape = tuple(wanted[key].shape)
        if value.shape != shape:
            raise CheckpointError(f"{path}: {key} has shape {value.shape}, the module has {shape}", hint=SIZES)
