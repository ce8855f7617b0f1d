"""Archive of a network: the exact `Kan` that an export read, as one file of its version.

Graphs round the numbers of a network and change its form. The archive has every number of it exactly, so that programs
can certify, edit and export the network of a version without its checkpoint.

The file has the safetensors format. Its tensors are the arrays of the network, as float32 where that is exact. The
metadata has one JSON document: the objects of the network by class and field, and facts of the export.

    {"format": 1, "network": {"is": "ir.Kan", "layers": [...]}, "facts": {...}}

An array is {"tensor": NAME}, or {"full": VALUE, "shape": [...]} if all of its values are equal. Arrays of equal values
have at most FULL_FREE values together, and FULL_RATIO for each value of the tensors, so that a small file needs little
memory. A function of one number is {"function": RECIPE}: the key of `MAKERS` and the arguments that make it.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import json
import math
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kanexport import bases, functions
from kanexport.bases import recurrence
from kanexport.errors import CheckpointError, DamagedCheckpoint, ExportError
from kanexport.formats import safetensors
from kanexport.functions import domain_maps, elementwise, expression, regularized, wavelets
from kanexport.functions.elementwise import Unary
from kanexport.ir.model import Kan

FORMAT = 1
KEY = "kanserve.network"
EXPORT_AGAIN = "export the checkpoint again with this version of kanserve"
FULL_FREE, FULL_RATIO = 2**20, 16
CLASS, FUNCTION, TENSOR, FULL, SHAPE, ENUM = "is", "function", "tensor", "full", "shape", "enum"
# By the first value of a recipe: the maker of a function from the other values.
MAKERS: dict[str, Callable[..., Unary]] = {
    elementwise.ACTIVATION: elementwise.activation,
    elementwise.SYMBOLIC_FUNCTION: elementwise.symbolic,
    elementwise.SHAPE: elementwise.SHAPES.__getitem__,
    elementwise.LIMITED: elementwise.limited,
    wavelets.WAVELET: wavelets.WAVELETS.__getitem__,
    expression.EXPRESSION: expression.function,
    regularized.AVOIDING: regularized.avoiding,
    domain_maps.SQUASH: domain_maps.function,
    recurrence.BELL: recurrence.bell,
}


class NotArchivable(Exception):
    """A part of a network that no archive can have, such as a function of a PyTorch module."""


def dumps(kan: Kan, facts: Mapping[str, Any]) -> bytes:
    """The archive of a network. `facts`: JSON values. Raises NotArchivable."""
    writer = _Writer()
    network = writer.encode(kan)
    if writer.full > _most(writer.tensors):  # such as a large network whose coefficients are all 0
        writer = _Writer(short=False)
        network = writer.encode(kan)
    document = {"format": FORMAT, "network": network, "facts": facts}
    return safetensors.write(writer.tensors, {KEY: json.dumps(document, allow_nan=False, separators=(",", ":"))})


def loads(data: bytes) -> tuple[Kan, dict[str, Any]]:
    """The network and the facts of an archive. Raises CheckpointError."""
    tensors, metadata = safetensors.read(data), safetensors.metadata(data)
    try:
        document = json.loads(metadata[KEY])
        version = document["format"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"the safetensors file has no {KEY!r} in its metadata", hint=EXPORT_AGAIN) from error
    if version != FORMAT:
        raise CheckpointError(
            f"the network file has format {str(version)[:20]}, this program reads format {FORMAT}",
            code="network-format-unknown",
            hint=EXPORT_AGAIN,
        )
    try:
        kan, facts = _Reader(tensors).decode(document["network"]), document["facts"]
    except LookupError as error:
        raise DamagedCheckpoint(f"the network file names no part {error}", hint=EXPORT_AGAIN) from error
    except (ExportError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedCheckpoint(f"the network file is not valid: {error}", hint=EXPORT_AGAIN) from error
    if not (isinstance(kan, Kan) and isinstance(facts, dict)):
        raise DamagedCheckpoint("the network file has no network", hint=EXPORT_AGAIN)
    return kan, facts


def _most(tensors: Mapping[str, np.ndarray[Any, Any]]) -> int:
    """The number of values that arrays of equal values may have together, in a file with these tensors."""
    return FULL_FREE + FULL_RATIO * sum(array.size for array in tensors.values())


class _Writer:
    """Encoder of the parts of a network. It collects the arrays in `tensors`. `short`: write arrays of equal values as
    a value and a shape; `full` counts their values."""

    def __init__(self, *, short: bool = True) -> None:
        self.tensors: dict[str, np.ndarray[Any, Any]] = {}
        self.short, self.full = short, 0
        self._names: dict[int, str] = {}  # of arrays that several parts share

    def encode(self, value: Any, at: str = "kan") -> Any:
        """The JSON value of a part. `at`: its place, which names the tensors."""
        if isinstance(value, enum.Enum):
            return {ENUM: _name(type(value)), "name": value.name}
        if isinstance(value, np.ndarray):
            return self._array(value, at)
        if isinstance(value, tuple | list):
            return [self.encode(item, f"{at}.{index}") for index, item in enumerate(value)]
        if isinstance(value, Unary):
            if not value.recipe:
                raise NotArchivable(f"the function {value.name!r} has no formula that a file can hold")
            return {FUNCTION: self.encode(value.recipe, at)}
        if type(value) in _classes().values():
            names = [field.name for field in dataclasses.fields(value)]
            fields = {name: self.encode(getattr(value, name), f"{at}.{name}") for name in names}
            return {CLASS: _name(type(value))} | fields
        return _plain(value, at)

    def _array(self, array: np.ndarray[Any, Any], at: str) -> Any:
        if self.short and array.size > 1 and (array == array.flat[0]).all():
            self.full += array.size
            return {FULL: _plain(array.flat[0].item(), at), SHAPE: list(array.shape)}
        if id(array) not in self._names:
            with np.errstate(over="ignore"):
                short = array.astype(np.float32) if array.dtype == np.float64 else array
            self.tensors[at] = short if np.array_equal(short, array) else array
            self._names[id(array)] = at
        return {TENSOR: self._names[id(array)]}


def _plain(value: Any, at: str) -> Any:
    """A number, text or None as JSON. Raises NotArchivable."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and np.isfinite(value)):
        return value
    raise NotArchivable(f"{at} is of type {type(value).__name__}, which a network file cannot hold")


class _Reader:
    """Decoder of the parts of a network. `tensors`: the arrays of the file."""

    def __init__(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._arrays = {
            name: array.astype(np.float64) if array.dtype == np.float32 else array for name, array in tensors.items()
        }
        self._full = _most(tensors)

    def decode(self, value: Any) -> Any:
        """The part with this JSON value. It raises what the classes raise for fields that are not valid."""
        if isinstance(value, list):
            return tuple(map(self.decode, value))
        if not isinstance(value, dict):
            return value
        if CLASS in value:  # first, because its fields may have the other names
            fields = {name: self.decode(part) for name, part in value.items() if name != CLASS}
            return _classes()[value[CLASS]](**fields)
        if FUNCTION in value:
            kind, *arguments = map(self.decode, value[FUNCTION])
            return MAKERS[kind](*arguments)
        if ENUM in value:
            return _classes()[value[ENUM]][value["name"]]
        return self._array(value)

    def _array(self, value: dict[str, Any]) -> np.ndarray[Any, Any]:
        if FULL in value:
            self._full -= math.prod(value[SHAPE])
            if self._full < 0:
                raise DamagedCheckpoint(
                    f"its arrays of equal values, such as one of shape {str(value[SHAPE])[:60]}, have more than "
                    f"{_most(self._arrays)} values, the limit for a file with its tensors",
                    hint=EXPORT_AGAIN,
                )
            return np.full(value[SHAPE], value[FULL], dtype=bool if isinstance(value[FULL], bool) else np.float64)
        return self._arrays[value[TENSOR]]


@functools.cache
def _classes() -> dict[str, Any]:
    """The classes that an archive may name: the data classes and enumerations of bases, functions and this package."""
    ir = importlib.import_module(__package__ or "kanexport.ir")
    members: list[type] = []
    for package in (bases, functions, ir):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            names = vars(importlib.import_module(module.name)).values()
            members += [item for item in names if isinstance(item, type) and item.__module__ == module.name]
    return {_name(item): item for item in members if dataclasses.is_dataclass(item) or issubclass(item, enum.Enum)}


def _name(member: type) -> str:
    """The name of a class in an archive: its package and the class, such as "bases.BSpline"."""
    return f"{member.__module__.split('.')[1]}.{member.__name__}"
