"""Cache of torch.onnx's operator table. Without it, each export spends half a second on the table."""

from __future__ import annotations

import functools
import gc
import sys
from typing import Any

MODULE = "torch.onnx._internal.exporter._registration"


def keep() -> None:
    """Where torch.onnx is loaded, its next exports get copies of one table: what one of them adds is its own."""
    kind = getattr(sys.modules.get(MODULE), "ONNXRegistry", None)
    make = getattr(kind, "from_torchlib", None)
    if make is None or isinstance(make, _Kept):
        return
    kind.from_torchlib = _Kept(make)  # type: ignore[union-attr]  # it has the method
    gc.freeze()  # what torch.onnx has loaded stays; to look through it takes a tenth of an export


class _Kept:
    """`from_torchlib`, remembered by its arguments."""

    def __init__(self, make: Any) -> None:
        self._make = functools.cache(make)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        table = self._make(*arguments, **named)
        copy = type(table)()
        copy.__dict__.update(table.__dict__, functions={name: [*ways] for name, ways in table.functions.items()})
        return copy
