"""Loader of a module from a public repository, as the table of `public_modules.py` describes it.

The loader reads third-party code from a folder of clones; this repository includes none of it.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

DEFINITIONS = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
SHARE = 0.1  # of a parameter's spread, by which it is moved


def load(root: Path, file: Path, *, definitions: bool, stand_ins: Iterable[str]) -> types.ModuleType:
    """The Python module of a file; `root`: the folder that its own imports start from. `definitions`: only
    its imports, classes, functions and plain constants, since running it would train. `stand_ins`: packages
    that it names and does not need."""
    sys.path.insert(0, str(root))
    with _standing_in(stand_ins):
        if definitions:
            return _definitions(file)
        return importlib.import_module(".".join(file.relative_to(root).with_suffix("").parts))


def make(root: Path, file: Path, expression: str, *, definitions: bool, stand_ins: Iterable[str]) -> nn.Module:
    """The module that an expression makes, in evaluation. `expression` may name what the file does, and torch."""
    names = vars(load(root, file, definitions=definitions, stand_ins=stand_ins))
    helpers = {"torch": torch, "nn": nn, "Facts": types.SimpleNamespace, "ran": _ran}
    created = eval(expression, helpers | names)
    assert isinstance(created, nn.Module), f"{expression} makes {type(created).__name__}"
    return created.cpu().eval()


def _ran(module: nn.Module, *shape: int) -> nn.Module:
    """Run once, for those that make their weights then."""
    module(torch.zeros(2, *shape))
    return module


@torch.no_grad()
def move(module: nn.Module, seed: int) -> None:
    """As after some training: no trained number is zero, one or as another, and no running statistics as at first."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        trained = isinstance(value, nn.Parameter) and value.requires_grad
        running = name.endswith(("running_mean", "running_var"))
        if not (trained or running) or not value.is_floating_point() or 0 in value.stride():  # a view of fewer
            continue
        spread = float(value.std()) if value.numel() > 1 else 0.0
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
        moved = value + SHARE * (spread or 1.0) * noise
        value.copy_(moved.abs() + SHARE if name.endswith("running_var") else moved)


def _definitions(file: Path) -> types.ModuleType:
    """A module with the imports and definitions of a file. The loader prints and skips statements that fail."""
    module = types.ModuleType(file.stem)
    module.__file__ = str(file)
    sys.modules[file.stem] = module
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(statement, DEFINITIONS) and not _constant(statement):
            continue
        try:
            exec(compile(ast.Module([statement], []), str(file), "exec"), vars(module))
        except Exception as error:
            print(f"{file.name}, line {statement.lineno}: {error}", file=sys.stderr)
    return module


def _constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Assign) and not any(isinstance(part, ast.Call) for part in ast.walk(statement))


class _Anything(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class StandIn(metaclass=_Anything):
    """A placeholder for any name of an absent package, which accepts all calls and does nothing."""

    def __init__(self, *args: Any, **named: Any) -> None: ...

    def __call__(self, value: Any = None, *args: Any, **named: Any) -> Any:
        return value


class _StandInModule(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (StandIn,), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self.names:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


@contextmanager
def _standing_in(names: Iterable[str]) -> Iterator[None]:
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _StandInModule)]:
            del sys.modules[name]
