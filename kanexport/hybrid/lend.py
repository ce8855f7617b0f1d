"""A user's module, lent: run as it is, changed for a while, given back as it was.

Never a copy. Closures over submodules (`self.f = lambda x: self.drop(x)`) would keep
the originals, and a module that remembers what it computed cannot be copied at all.
"""

from __future__ import annotations

import contextlib
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from kanexport.errors import InvalidKan

TABLES = ("_parameters", "_buffers", "_modules")
DEPTH = 2  # of lists and tables of tensors among a module's attributes


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of DataParallel and torch.compile."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


@contextlib.contextmanager
def lent(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside: on the CPU, all floating-point tensors of one type, for inference, and new
    tensors of that type too. Raises InvalidKan for a module that has no values yet, or is
    no Python code any more."""
    parts = list(module.modules())
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise InvalidKan(
                f"{name.removeprefix('body').removeprefix('.') or 'the module'} is TorchScript, "
                "which torch.export does not take",
                hint="give the module that it was made of, before torch.jit.script or trace",
            )
    kept = [(part, dict(part.__dict__), [dict(part.__dict__[name]) for name in TABLES]) for part in parts]
    parameters = [(p, p.data, p.grad, p.requires_grad) for p in _parameters(module)]
    moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    try:
        for parameter, data, _, _ in parameters:
            parameter.grad = None
            parameter.requires_grad = False
            parameter.data = _moved(data, dtype, moved)
        for part in parts:
            part.training = False
            for name, buffer in part._buffers.items():
                part._buffers[name] = _moved(buffer, dtype, moved)
            for name, value in list(part.__dict__.items()):
                if name not in TABLES:
                    part.__dict__[name] = _moved(value, dtype, moved)
        with plain(dtype):
            yield
    finally:
        for part, attributes, tables in kept:
            part.__dict__.clear()
            part.__dict__.update(attributes)
            for name, table in zip(TABLES, tables, strict=True):
                part.__dict__[name].clear()
                part.__dict__[name].update(table)
        for parameter, data, grad, requires in parameters:
            parameter.data = data
            parameter.requires_grad = requires
            parameter.grad = grad


def _parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    for name, parameter in module.named_parameters():
        if parameter.is_meta or isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InvalidKan(
                f"parameter {name.removeprefix('body.')} has no values yet",
                hint="give a module that has been run or loaded; lazy modules get their sizes from their first rows",
            )
        yield parameter


def _moved(value: Any, dtype: torch.dtype, moved: dict[int, tuple[torch.Tensor, torch.Tensor]], depth: int = 0) -> Any:
    """A tensor, or a list or table of them, in another type; what is shared stays shared."""
    if isinstance(value, torch.Tensor):
        if isinstance(value, nn.Parameter) or value.is_meta:
            return value
        if id(value) not in moved:
            wanted = dtype if value.is_floating_point() else value.dtype
            # The original is kept too, so that no other tensor gets its id.
            moved[id(value)] = value, value.detach().to("cpu", wanted, copy=True)
        return moved[id(value)][1]
    if depth < DEPTH and type(value) in (list, tuple):
        return type(value)(_moved(item, dtype, moved, depth + 1) for item in value)
    if depth < DEPTH and type(value) is dict:
        return {key: _moved(item, dtype, moved, depth + 1) for key, item in value.items()}
    return value


@contextlib.contextmanager
def plain(dtype: torch.dtype, *, compile_too: bool = False) -> Iterator[None]:
    """Some layers allocate in the default type whatever their weights are. Some compile
    themselves, which takes half a minute and is left out. Torch's own transformer blocks
    have a fast path that never calls the layers inside of them. And some warn of batches
    that only we make."""
    before, fast = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    torch.set_default_dtype(dtype)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.compiler.set_stance("default" if compile_too else "force_eager"):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def replaced(forwards: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Submodules with another `forward(self, ...)`, whether they are called or their
    `forward` is; all else about them stays: attributes, hooks, names."""
    kept = []
    try:
        for part, forward in forwards:
            kind = type(part)
            kept.append((part, kind, part.__dict__.pop("forward", None)))
            # Not a hook: published KAN convolutions call `layer.forward(x)`.
            try:
                part.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
            except TypeError:  # a class that cannot have this one below it
                part.__dict__["forward"] = types.MethodType(forward, part)
        yield
    finally:
        for part, kind, own in reversed(kept):
            part.__class__ = kind
            part.__dict__.pop("forward", None)
            if own is not None:
                part.__dict__["forward"] = own


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str | None:
    """Where a layer's vectors are among what it is called with."""
    for at, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            return at
    for name, value in kwargs.items():
        if isinstance(value, torch.Tensor):
            return name
    return None
