"""Loader of the tensors of a checkpoint into the user's module, under any prefix that a trainer added."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import REPAIR, CheckpointError, InvalidKan
from kanexport.formats import checkpoint
from kanexport.shared.manifest import SourceFile
from kanexport.torch_export.kan_candidates import shown

T = TypeVar("T")

COMPILED = "_orig_mod."  # torch.compile names what it wraps
NAMED = 4  # tensors in an error
DIVERGED = REPAIR
SIZES = "build the module in the factory with the sizes of its training"


def load(module: nn.Module, path: Path) -> tuple[SourceFile, ...]:
    """Load weights through the readers of kanserve, which execute no code, and return the files. Raises
    CheckpointError if they are not those of this module: every tensor must exist, without others, in its shape."""
    loaded = checkpoint.load(path)
    own = _uncompiled(module.state_dict())
    state = _without_prefix(_uncompiled(loaded.tensors), own)
    _require_names(path, state, own)
    _require_shapes(path, state, own)
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}
    assign(module, {key: tensors[key.replace(COMPILED, "")] for key in module.state_dict()})
    return loaded.files


def assign(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load a state dict, also into weights of `expand`, which have one number in many places."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.layout == torch.strided and 0 in tensor.stride():
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    module.load_state_dict(state)


def require_finite(module: nn.Module, answers: Callable[[], bool]) -> None:
    """Raises InvalidKan for NaN or infinity in a parameter or in statistics of a normalization, and for NaN in a
    buffer. Infinities in other buffers, such as the mask of an attention, may be intended; they are rejected, too,
    unless the module returns finite outputs (`answers`) for ordinary rows."""
    norms = {
        f"{name}.{buffer}"
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        for buffer in part._buffers
    }
    for name, parameter in module.named_parameters():
        _require_finite("parameter", name, parameter, infinity=False)
    for name, buffer in module.named_buffers():
        _require_finite("buffer", name, buffer, infinity=name not in norms)
    if not answers():
        for name, buffer in module.named_buffers():
            _require_finite("buffer", name, buffer, infinity=False)


def _require_finite(what: str, name: str, tensor: torch.Tensor, *, infinity: bool) -> None:
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()) or tensor.layout != torch.strided:
        return
    bad = torch.isnan(tensor) if infinity else ~torch.isfinite(tensor)
    if not bad.any():
        return
    first = tuple(torch.nonzero(bad)[0].tolist())
    raise InvalidKan(
        f"{what} {shown(name)} at [{', '.join(map(str, first))}] is {tensor[first].item()!r} "
        f"({int(bad.sum())} of {tensor.numel()} are not finite)",
        code="weights-not-finite",
        hint=DIVERGED,
    )


def _uncompiled(state: Mapping[str, T]) -> dict[str, T]:
    return {key.replace(COMPILED, ""): value for key, value in state.items()}


def _without_prefix(tensors: dict[str, npt.NDArray[Any]], own: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The tensors of the module if a trainer put it under a prefix: `module.` of DataParallel, `model.` of many.
    Other tensors next to it belong to the trainer."""
    if not own or set(own) <= set(tensors):
        return tensors
    first = next(iter(own))
    prefixes = [key.removesuffix(first) for key in tensors if key.endswith("." + first)]
    complete = [prefix for prefix in prefixes if all(prefix + key in tensors for key in own)]
    if len(complete) != 1:
        return tensors
    return {key: tensors[complete[0] + key] for key in own}


def _require_names(path: Path, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    missing, extra = [key for key in own if key not in state], [key for key in state if key not in own]
    if missing or extra:
        names = ", ".join([f"-{key}" for key in missing[:NAMED]] + [f"+{key}" for key in extra[:NAMED]])
        raise CheckpointError(
            f"{path}: the weights do not fit this module: {len(missing)} tensors are missing, {len(extra)} are unknown "
            f"({names})",
            code="weights-do-not-fit-module",
            hint=SIZES,
        )


def _require_shapes(path: Path, state: Mapping[str, npt.NDArray[Any]], own: Mapping[str, Any]) -> None:
    for key, value in state.items():
        shape = tuple(own[key].shape)
        if value.shape != shape:
            raise CheckpointError(
                f"{path}: {key} has shape {value.shape}, expected {shape}", code="weights-do-not-fit-module", hint=SIZES
            )
