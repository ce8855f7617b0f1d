"""What a module takes, and where its rows come from: tensors [rows, ...] of floating-point or whole numbers.

Rows are arrays or tensors of the user's, a file, or random numbers of a given shape. They
become float64 arrays of numbers that float32 holds, so that graphs of both types can be
given the same ones.
"""

from __future__ import annotations

import inspect
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import OptionError
from kanexport.hybrid.faults import first_line
from kanexport.hybrid.wiring import OURS, REAL, Plug, Wiring
from kanexport.lowering.serving import INPUT
from kanexport.packing.signature import DATATYPES
from kanexport.proof.ports import FLOAT, Port, join
from kanexport.shared import csvrows
from kanexport.shared.nearest import advice

Array = npt.NDArray[np.float64]

RANDOM_ROWS = 32
ROWS_LIMIT, NUMBERS_LIMIT = 1024, 100_000_000
LARGEST = 2_000_000  # whole numbers up to here stay the same ones however float32 rounds
PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
UNNAMED = "arr_"  # what numpy.savez calls arrays without a name


def rows(example: Any, module: nn.Module) -> tuple[Array, Wiring]:
    """Example rows as one array, and the wiring of the module's inputs. `example`: an array, a tensor, a tuple of
    them in the order of forward's parameters, or a dictionary by their names. The last part of a tuple may be a
    dictionary of the inputs given by name. Raises OptionError for anything else, for no rows, for different numbers
    of rows, and for numbers that are not finite."""
    given = named(example, inspect.signature(module.forward).parameters)
    plugs, parts = [], []
    for name, keyword, value in given:
        array = _as_array(value)
        _require_rows(name, array, len(given))
        kind = FLOAT if array.dtype.kind == "f" else array.dtype.name
        lone = array.ndim == 1
        array = array[:, None] if lone else array
        plugs.append(Plug(Port(name, array.shape[1:], kind), keyword, lone))
        exact = np.float32 if kind == FLOAT else np.float64
        parts.append(np.ascontiguousarray(array, dtype=exact).astype(np.float64))
    counts = {plug.port.name: len(part) for plug, part in zip(plugs, parts, strict=True)}
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise OptionError(f"the example's tensors differ in their number of rows: {shown}")
    return join(parts), Wiring(tuple(plugs))


def named(example: Any, parameters: Mapping[str, inspect.Parameter]) -> list[tuple[str, str, Any]]:
    """The name, the keyword (empty: by its place) and the rows of each input. `parameters`: of the forward that
    takes them. A dictionary at the end of a tuple has the inputs that are given by name. Raises OptionError."""
    if isinstance(example, Mapping) and example:
        _require_parameters(example, parameters)
        return [(_free(name, at), name, value) for at, (name, value) in enumerate(example.items())]
    given = list(example) if isinstance(example, tuple | list) else [example]
    if len(given) > 1 and isinstance(given[-1], Mapping):
        first = named(tuple(given[:-1]), parameters) if len(given) > 2 else [(_place(0, parameters), "", given[0])]
        return first + named(given[-1], parameters)
    if len(given) == 1:
        return [(INPUT, "", given[0])]
    return [(_free(_place(at, parameters), at), "", value) for at, value in enumerate(given)]


def _place(at: int, parameters: Mapping[str, inspect.Parameter]) -> str:
    """The name of the parameter at position `at`."""
    places = [name for name, one in parameters.items() if one.kind in PLACES]
    return places[at] if at < len(places) else f"{INPUT}{at}"


def _require_parameters(example: Mapping[Any, Any], parameters: Mapping[str, inspect.Parameter]) -> None:
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    for name in map(str, example):
        if name not in parameters:
            hint = advice(name, parameters, what="it takes")
            raise OptionError(f"the module's forward takes no {name[:80]!r}", hint=hint)


def _free(name: str, at: int) -> str:
    """A name that no tensor of ours has."""
    return f"{INPUT}{at}_{name}" if OURS.fullmatch(name) else name


def _as_array(value: Any) -> Any:
    """A tensor as an array. bfloat16, which numpy lacks, becomes float32."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return value


def _require_rows(name: str, array: Any, count: int) -> None:
    """Raises OptionError for what is no tensor of rows."""
    what = f"the example's {name}" if count > 1 else "the example"
    if not _are_rows(array, 1 if count > 1 else 2):
        kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        if kind.startswith("complex"):
            raise OptionError(f"{what} is {array.dtype}; {REAL}", hint="give real and imaginary parts as two inputs")
        raise OptionError(
            f"{what} is {kind}, expected a tensor [rows, ...] of floating-point or whole numbers",
            hint="several inputs: a tuple in the order of forward's parameters, or a dictionary by their names",
        )
    if not np.isfinite(array).all():
        raise OptionError("the example rows hold values that are not finite")
    if array.dtype.kind != "f" and np.abs(array.astype(np.float64)).max() > LARGEST:
        raise OptionError(f"{what} holds whole numbers beyond {LARGEST}, which float32 cannot tell apart in a proof")


def _are_rows(array: Any, axes: int) -> bool:
    if not isinstance(array, np.ndarray) or array.ndim < axes or array.size == 0:
        return False
    return array.dtype.kind == "f" or array.dtype.name in DATATYPES


def load(path: Path) -> Any:
    """Rows from a .npy, .csv or .npz file, at most ROWS_LIMIT; of an .npz with several arrays a dictionary,
    or a tuple where they have no names. Raises OptionError."""
    try:
        if path.suffix == ".csv":
            text = csvrows.decode(str(path), path.read_bytes())
            return np.array(csvrows.parse(str(path), text, most=ROWS_LIMIT), np.float32)
        found = np.load(path, allow_pickle=False, mmap_mode="r")
        return np.array(found[:ROWS_LIMIT]) if isinstance(found, np.ndarray) else _archive(path, found)
    except csvrows.CsvError as error:
        raise OptionError(str(error)) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise OptionError(
            f"{path} cannot be read as rows: {why}", hint="numpy.save('rows.npy', rows), or a .csv"
        ) from error


def _archive(path: Path, found: Any) -> Any:
    with found:
        arrays = {name: found[name][:ROWS_LIMIT] for name in found.files}
    if not arrays:
        raise OptionError(f"{path} holds no array")
    if len(arrays) == 1 or all(name.startswith(UNNAMED) for name in arrays):
        return tuple(arrays.values())
    return arrays


def draw(shape: str) -> npt.NDArray[np.float32]:
    """RANDOM_ROWS rows of a shape such as "1,8,8" or "1x8x8". Raises OptionError."""
    parts = [part.strip() for part in shape.replace("x", ",").split(",")]
    sizes = [int(part) if part.isdecimal() and len(part) < 10 else 0 for part in parts]
    if not all(sizes) or RANDOM_ROWS * int(np.prod(sizes, dtype=object)) > NUMBERS_LIMIT:
        raise OptionError(f"--input-shape is {shape[:80]!r}, expected the shape of one row, such as 1,8,8")
    return np.random.default_rng(0).normal(size=(RANDOM_ROWS, *sizes)).astype(np.float32)
