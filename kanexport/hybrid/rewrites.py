"""What torch.onnx has no words for, said in words that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

EXACT = "donot_use_mm_for_euclid_dist"


def _cdist(a: torch.Tensor, b: torch.Tensor, p: float = 2.0, compute_mode: str = EXACT) -> torch.Tensor:
    """Distances one way for all numbers of rows; torch goes another above 25 of them, with fewer digits."""
    return torch.cdist(a, b, p, compute_mode=EXACT)


def _clamp(x: torch.Tensor, min: Any = None, max: Any = None) -> torch.Tensor:
    """With a bound that is a tensor, of which torch.onnx loses the type under torch.vmap."""
    if not isinstance(min, torch.Tensor) and not isinstance(max, torch.Tensor):
        return torch.clamp(x, min, max)
    if min is not None:
        x = torch.maximum(x, _like(min, x))
    return x if max is None else torch.minimum(x, _like(max, x))


def _like(value: Any, x: torch.Tensor) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)


def _getitem(x: torch.Tensor, index: Any) -> torch.Tensor:
    """With indices of 64 bits, as ONNX wants them."""
    several = index if isinstance(index, tuple) else (index,)
    wide = tuple(one.long() if _is_narrow(one) else one for one in several)
    return x[wide if isinstance(index, tuple) else wide[0]]


def _is_narrow(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.int32, torch.int16, torch.int8)


Table = Mapping[Any, Callable[..., torch.Tensor]]
# Torch's own other way: a module is held to it too, because with more than 25 rows a row of infinities answers NaN.
DISTANCES: Table = {torch.cdist: _cdist}
TABLE: Table = {
    **DISTANCES,
    torch.clamp: _clamp,
    torch.Tensor.clamp: _clamp,
    torch.Tensor.__getitem__: _getitem,
}


class Rewritten(TorchFunctionMode):
    """Inside, the functions of a table are computed by what stands there."""

    def __init__(self, table: Table = TABLE) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.table.get(func, func)(*args, **(kwargs or {}))
