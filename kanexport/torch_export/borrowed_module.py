"""A borrowed module: the module of the user, changed for the export and restored afterwards.

Never a copy. Closures over submodules (`self.f = lambda x: self.drop(x)`) would keep
the originals, and a module that remembers what it computed cannot be copied at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import linecache
import os
import re
import sys
import sysconfig
import traceback
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kanexport.errors import ExportError, ModuleRefused

TYPES = {"float64": torch.float64, "float32": torch.float32}
TABLES = ("_parameters", "_buffers", "_modules")
DEPTH = 2  # of lists and tables of tensors among a module's attributes


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DataParallel and torch.compile."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


@contextlib.contextmanager
def lent(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """A context in which the module is on the CPU, in eval mode, with all floating-point tensors of one type,
    including new ones. Raises InvalidKan for a module without values, or without Python code."""
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ModuleRefused(
                f"{name.removeprefix('body').removeprefix('.') or 'the module'} is TorchScript, "
                "which torch.export does not support",
                code="module-is-torchscript",
                hint="pass the original module, from before torch.jit.script or trace",
            )
    parts = [
        (part, dict(part.__dict__), [(table, dict(table)) for table in map(part.__dict__.__getitem__, TABLES)])
        for part in module.modules()
    ]
    weights = [(weight, weight.data, weight.grad, weight.requires_grad) for weight in _parameters(module)]
    try:
        _change(module, _Conversion(dtype))
        with plain(dtype):
            yield
    finally:
        for part, attributes, tables in parts:
            part.__dict__.clear()
            part.__dict__.update(attributes)
            for table, entries in tables:
                table.clear()
                table.update(entries)
        for weight, data, grad, requires_grad in weights:  # the same object with other data
            weight.data, weight.requires_grad, weight.grad = data, requires_grad, grad


def _parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    for name, parameter in module.named_parameters():
        if parameter.is_meta or isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ModuleRefused(
                f"parameter {name.removeprefix('body.')} has no values",
                code="parameter-without-values",
                hint="run the module once, or load its weights: lazy modules get their sizes from their first rows",
            )
        yield parameter


class _Conversion:
    """Copies of tensors in another type on the CPU; shared tensors stay shared."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        # By id; the original is kept too, so that no other tensor gets its id.
        self._copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def tensor(self, original: torch.Tensor) -> torch.Tensor:
        """The copy of a tensor. Parameters change in place, and a tensor without values stays."""
        if isinstance(original, nn.Parameter) or original.is_meta:
            return original
        if id(original) not in self._copies:
            dtype = self._dtype if original.is_floating_point() else original.dtype
            self._copies[id(original)] = original, original.detach().to("cpu", dtype, copy=True)
        return self._copies[id(original)][1]

    def value(self, value: Any, depth: int = 0) -> Any:
        """An attribute: a tensor, a list or table of tensors, or another value, which stays."""
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if depth < DEPTH and type(value) in (list, tuple):
            return type(value)(self.value(item, depth + 1) for item in value)
        if depth < DEPTH and type(value) is dict:
            return {key: self.value(item, depth + 1) for key, item in value.items()}
        return value


def _change(module: nn.Module, conversion: _Conversion) -> None:
    parts = list(module.modules())
    for part in parts:
        if isinstance(part, nn.RMSNorm) and part.eps is None:
            # It depends on the type in which the norm was trained; for half precision torch uses that of float32.
            kind = part.weight.dtype if part.weight is not None else torch.float32
            part.eps = torch.finfo(torch.float64 if kind == torch.float64 else torch.float32).eps
    for parameter in module.parameters():
        parameter.grad = None
        parameter.requires_grad = False
        parameter.data = conversion.tensor(parameter.data)
    for part in parts:
        part.training = False
        for name, buffer in part._buffers.items():
            part._buffers[name] = conversion.value(buffer)
        for name, value in list(part.__dict__.items()):
            if name not in TABLES:
                part.__dict__[name] = conversion.value(value)


@contextlib.contextmanager
def plain(dtype: torch.dtype, *, compile_too: bool = False) -> Iterator[None]:
    """A context in which torch runs plain Python code in one type.

    Some layers allocate in the default type whatever their weights are. Some compile
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
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which all parts of a module are in eval mode. It calls no method of the module, because pykan 0.0
    has a method `train` that trains."""
    modes = {part: part.training for part in module.modules()}
    try:
        for part in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def replaced(forwards: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Submodules with another `forward(self, ...)`, both for calls of the submodule and of its `forward`.
    Attributes, hooks and names stay."""
    originals = []
    try:
        for part, forward in forwards:
            kind = type(part)
            originals.append((part, kind, part.__dict__.pop("forward", None)))
            # Not a hook: published KAN convolutions call `layer.forward(x)`.
            try:
                part.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
            except TypeError:  # a class that cannot have this one below it
                part.__dict__["forward"] = types.MethodType(forward, part)
        yield
    finally:
        for part, kind, own in reversed(originals):
            part.__class__ = kind
            part.__dict__.pop("forward", None)
            if own is not None:
                part.__dict__["forward"] = own


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | str | None:
    """The place of the vectors of a layer among the arguments of its call."""
    for at, value in enumerate(args):
        if isinstance(value, torch.Tensor):
            return at
    for name, value in kwargs.items():
        if isinstance(value, torch.Tensor):
            return name
    return None


OWN = tuple(str(path.parent.parent) for path in (Path(__file__), Path(__file__).resolve()))
PYTHON = sysconfig.get_paths()["stdlib"]
LIBRARIES = re.compile(r"site-packages.(torch|functorch|onnx|onnxscript|onnx_ir|sympy|numpy)\b")
QUOTED = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')  # dynamo tells frames in its text
LENGTH = 300


class ForeignError(Exception):
    """An error of the user's code or of torch, as `error`."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(type(error).__name__)
        self.error = error


@contextlib.contextmanager
def foreign_code() -> Iterator[None]:
    """A context for code of the user or of torch. Exceptions become a ForeignError, except Ctrl-C."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a module may raise anything, and a script that parses arguments exits
        raise ForeignError(error) from error


@contextlib.contextmanager
def printing_to_stderr() -> Iterator[None]:
    """A context that sends all output to stderr, including output of libraries that are not Python: stdout has one
    document and no other text."""
    sys.stdout.flush()
    saved = None
    with contextlib.suppress(OSError):
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        with contextlib.suppress(OSError, TypeError, AttributeError):  # no C library by that name
            ctypes.CDLL(None).fflush(None)
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def first_line(error: BaseException) -> str:
    """The first words of an error, without advice for developers of torch, paths and traces."""
    if isinstance(error, ExportError):
        return error.message
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:LENGTH].removesuffix(": ")


def causes(error: BaseException) -> list[BaseException]:
    """An error and its causes, down to the first error of the chain."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


def user_line(error: BaseException) -> str:
    """The innermost line of the user's code that an error passed through, such as " (nets.py, line 12, in forward: if
    x.sum() > 0:)"; empty if there is none."""
    for link in reversed(causes(error)):
        passed = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(link.__traceback__)]
        quoted = [(name, int(line), function) for name, line, function in QUOTED.findall(str(link))]
        for frames in (passed, quoted):
            users = [frame for frame in frames if _is_users(frame[0])]
            if users:
                name, line, function = users[-1]
                text = linecache.getline(name, line).strip()
                return f" ({Path(name).name}, line {line}, in {function}{f': {text[:120]}' if text else ''})"
    return ""


def is_users_own(name: str) -> bool:
    """Whether a file is the user's, not part of an installed library."""
    return _is_users(name) and "site-packages" not in name and "dist-packages" not in name


def _is_users(name: str) -> bool:
    """Whether a file belongs to neither kanserve, torch nor Python."""
    if name.startswith("<") or name.startswith(OWN) or LIBRARIES.search(name):
        return False
    return not name.startswith(PYTHON) or "site-packages" in name
