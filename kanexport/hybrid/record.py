"""`kanexport.record_answers`: what a live module answers, in a file that an export is held against."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.answers.rows import GIVEN
from kanexport.errors import OptionError
from kanexport.shared import atomic

BESIDE = (1.5, 3.0, 10.0)  # times the given rows
FAR = (100.0, 1000.0)
MOST = 64  # of the given rows, that others are made from
SEED = 0
HALF = (torch.float16, torch.bfloat16)
SEVERAL = "a module of several inputs is compared with itself: kanexport.export(model, rows), or --module"

Array = npt.NDArray[Any]


def record_answers(model: Callable[[Any], Any], rows: Any, path: str | Path) -> Path:
    """Write what a trained model answers to an .npz, for `kanserve export --answers` (or `answers=`).

    `model`: a torch module, as it is (it answers in eval mode and is as it was afterwards), or a function
    of an array. `rows` [B, ...]: rows like the data, a tensor or array; the model is also asked for rows
    around and far outside of them, zeros, and rows of one sign. The file holds `x`, `y` and `zone`,
    in the model's own precision; a module of half precision is asked in float32, as a copy, because its
    own answers would be too inexact to tell forwards apart. Raises OptionError for rows or answers that
    are no real numbers, and for several inputs: `kanexport.export(model, rows)` compares such a
    module with itself.
    """
    given = _rows(rows)
    zones = _zones(given)
    x = np.concatenate(list(zones.values()))
    y = _ask(model, x)
    if y.dtype.kind != "f" or len(y) != len(x):
        raise OptionError(f"the model gives {y.dtype} of shape {y.shape} for {len(x)} rows, expected one answer a row")
    names = [name for name, some in zones.items() for _ in some]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=x, y=y, zone=np.array(names))
    target = Path(path)
    atomic.write(target, buffer.getvalue())
    return target


def _rows(rows: Any) -> Array:
    """Raises OptionError for what is not one tensor of finite real numbers."""
    if isinstance(rows, Mapping | tuple):
        raise OptionError(f"rows are {len(rows)} tensors, expected one", hint=SEVERAL)
    given = _array(rows)
    if given.ndim < 1 or not len(given) or given.dtype.kind != "f" or not np.isfinite(given).all():
        raise OptionError(f"rows are {given.dtype} of shape {given.shape}, expected finite real numbers [rows, ...]")
    return given


def _zones(given: Array) -> dict[str, Array]:
    """The given rows, and others made from them; all of their type."""
    rng = np.random.default_rng(SEED)
    few = given[np.unique(np.linspace(0, len(given) - 1, MOST).astype(int))]
    spread = float(given.std()) or 1.0
    zones = {
        GIVEN: given,
        "around": few + rng.normal(0, spread / 2, size=few.shape),
        "beside": np.concatenate([few * factor for factor in BESIDE]),
        "one-sided": np.concatenate([np.abs(few), -np.abs(few)]),
        "zeros": np.zeros_like(few[:1]),
        "far": np.concatenate([few[:8] * factor for factor in FAR]),
    }
    return {name: np.asarray(rows, dtype=given.dtype) for name, rows in zones.items()}


def _array(value: Any) -> Array:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray((value.float() if value.dtype in HALF else value).numpy())
    return np.asarray(value)


def _ask(model: Callable[[Any], Any], x: Array) -> Array:
    """The answers [B, ...]; a module's in eval mode, in its own precision, where it lies."""
    if not isinstance(model, nn.Module):
        return _array(model(x))
    module, tensor = _fitting(model, x)
    training = {part: part.training for part in module.modules()}
    try:
        for part in training:  # not eval(): pykan 0.0 has a method `train` of its own, which trains
            part.training = False
        with torch.no_grad():
            answer = module(tensor)
    finally:
        for part, mode in training.items():
            part.training = mode
    if isinstance(answer, tuple | list) and answer:
        answer = answer[0]
    return _array(answer)


def _fitting(model: nn.Module, x: Array) -> tuple[nn.Module, torch.Tensor]:
    """The module, or a float32 copy of one of half precision, and the rows as it takes them, where it lies."""
    tensor = torch.from_numpy(x)
    parameter = next((value for value in model.parameters() if value.is_floating_point()), None)
    if parameter is None:
        return model, tensor
    if parameter.dtype in HALF:
        return copy.deepcopy(model).float(), tensor.to(parameter.device, torch.float32)
    return model, tensor.to(device=parameter.device, dtype=parameter.dtype)
