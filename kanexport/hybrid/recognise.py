"""Which submodules are KAN layers: by the shapes of their tensors, never by their class.

A submodule is taken for a KAN if a reader knows its tensors and leaves none over.
What the tensors do not tell (a base activation, an epsilon) is on the living module
as an attribute. Whether all of it was understood is then measured: the module and
our evaluation must agree on what the module was given (`capture.py`).
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport import readers, stack, unary
from kanexport.checkpoint import Checkpoint
from kanexport.errors import ExportError
from kanexport.ir import Kan
from kanexport.options import Options
from kanexport.parts import Part, storage_dtype

LINEAR = "linear"
# Attributes that hold what readers call by an option's name, where the two differ.
ATTRIBUTES = {
    "base_fun": ("base_fun", "base_activation"),
    "base_activation": ("base_activation", "base_fun", "activation", "act"),
    "jacobi_a": ("a", "alpha"),
    "jacobi_b": ("b", "beta"),
    "denominator": ("rbf.denominator", "rbf_linear.denominator", "denominator"),
    "grid": ("g", "grid_size", "G"),
    "k": ("k", "spline_order"),
    "w": ("w", "width"),
    "wavelet_type": ("wavelet_type",),
    "layernorm_eps": ("layernorm.eps",),
    "batchnorm_eps": ("bn.eps",),
    "epsilon": ("epsilon", "eps"),
}
CLASSES = {"gelu": "gelu", "silu": "silu", "swish": "silu"}


class ModuleOptions(Options):
    """Options answered by the attributes of a module, where the user did not give them."""

    def __init__(self, given: dict[str, str], module: nn.Module) -> None:
        super().__init__(given)
        self._module = module

    def optional(self, key: str) -> str | None:
        found = super().optional(key)
        if found is not None:
            return found
        for path in ATTRIBUTES.get(key, ()):
            value = _attribute(self._module, path)
            text = None if value is None else _text(value)
            if text is not None:
                return text
        return None


class Whole(nn.Module):
    """The module as the child of another, so that it can be a KAN layer itself."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> Any:
        return self.body(x)


def shown(name: str) -> str:
    """A submodule's name as the user knows it."""
    return name.removeprefix("body").removeprefix(".") or "(itself)"


def candidates(module: Whole, options: dict[str, str], refused: Collection[str] = ()) -> Iterator[tuple[str, str, Kan]]:
    """(name, family, network) of every submodule that looks like a KAN layer or a
    linear one, outermost first; what lies inside of one is not looked at, unless it
    was refused."""
    waiting: list[tuple[str, nn.Module]] = [("body", module.body)]
    while waiting:
        name, inner = waiting.pop(0)
        found = None if name in refused else _recognise(inner, options)
        if found is not None:
            yield name, *found
        else:
            waiting += [(f"{name}.{child}", part) for child, part in inner.named_children()]


def _recognise(module: nn.Module, options: dict[str, str]) -> tuple[str, Kan] | None:
    state = {key: value for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    if not state or any(value.is_complex() or value.is_sparse or value.is_quantized for value in state.values()):
        return None
    tensors = {key: _numpy(value) for key, value in state.items()}
    if type(module) is nn.Linear:
        layer = readers.linear(Part(tensors, ""))
        return LINEAR, stack.chain([layer], storage_dtype(list(tensors.values())))
    checkpoint = Checkpoint(Path(type(module).__name__), "", tensors, _config(module), ())
    for family, reader in readers.readers().items():
        if not _fits(reader, checkpoint):
            continue
        try:
            return family, reader.read(checkpoint, ModuleOptions(options, module))
        except ExportError:
            continue
    return None


def _fits(reader: readers.Reader, checkpoint: Checkpoint) -> bool:
    """A lone layer with no tensor left over, or a whole network."""
    if isinstance(reader, readers.LayerReader):
        lone = stack.prefixes(checkpoint.tensors, reader.keys) == [""]
        return lone and set(checkpoint.tensors) <= set(reader.keys.names()) and bool(reader.matches(checkpoint))
    return bool(reader.matches(checkpoint))


def _config(module: nn.Module) -> dict[str, Any] | None:
    """What pykan would write beside its weights, from a living pykan network."""
    symbolic, width = getattr(module, "symbolic_fun", None), getattr(module, "width", None)
    if not isinstance(symbolic, nn.ModuleList) or not isinstance(width, list):
        return None
    found = {
        "width": [list(entry) if isinstance(entry, list | tuple) else entry for entry in width],
        "mult_arity": getattr(module, "mult_arity", 2),
        "base_fun_name": getattr(module, "base_fun_name", "silu"),
        "symbolic_enabled": bool(getattr(module, "symbolic_enabled", True)),
    }
    names = {
        f"symbolic.funs_name.{at}": part.funs_name for at, part in enumerate(symbolic) if hasattr(part, "funs_name")
    }
    return found | names


def _numpy(value: torch.Tensor) -> npt.NDArray[Any]:
    value = value.detach().cpu()
    return np.asarray((value.float() if value.dtype == torch.bfloat16 else value).numpy())


def _attribute(module: nn.Module, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _text(value: Any) -> str | None:
    """An attribute as the text of an option: numbers, names, and functions with a known name."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float | str):
        return repr(value) if not isinstance(value, str) else value
    if isinstance(value, torch.Tensor):
        return repr(float(value)) if value.numel() == 1 else None
    name = (value.__name__ if inspect.isroutine(value) or inspect.isclass(value) else type(value).__name__).lower()
    if name == "gelu" and getattr(value, "approximate", "none") == "tanh":
        return "gelu_tanh"
    name = CLASSES.get(name, name)
    return name if name in unary.ACTIVATIONS else None
