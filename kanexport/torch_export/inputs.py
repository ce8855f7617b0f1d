"""Inputs of a module and sources of its rows: tensors [rows, ...] of floating-point or whole numbers.

Rows are arrays or tensors of the user's, a file, or random numbers of a given shape. They
become float64 arrays of numbers that float32 holds, so that graphs of both types can be
given the same ones.
"""

from __future__ import annotations

import inspect
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.bundle.description import WHOLE
from kanexport.errors import OptionError
from kanexport.lowering.lower import INPUT
from kanexport.shared import csv_columns, csv_text
from kanexport.shared.cli.suggest import advice
from kanexport.torch_export.borrowed_module import ForeignError, evaluating, first_line, foreign_code, plain
from kanexport.torch_export.io_binding import OURS, REAL, TensorBinding, Wiring
from kanexport.verify.graph_runner import FLOAT, Port, join

Array = npt.NDArray[np.float64]

RANDOM_ROWS = 32
ROWS_LIMIT, NUMBERS_LIMIT = 1024, 100_000_000
LARGEST_INPUT = 2_000_000  # whole numbers up to here stay the same ones however float32 rounds
PLACES = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
UNNAMED = "arr_"  # what numpy.savez calls arrays without a name
SEVERAL = "pass several inputs as a tuple in the order of forward's parameters, or as a dictionary by their names"


def rows(example: Any, module: nn.Module) -> tuple[Array, Wiring]:
    """Example rows as one array, and the wiring of the inputs of the module. `example`: an array, a tensor, a tuple
    of them in the order of forward's parameters, or a dictionary by their names. The last part of a tuple may be a
    dictionary of the inputs given by name. Raises OptionError for other values, for no rows, for different numbers
    of rows, and for numbers that are not finite."""
    entries = named_inputs(example, inspect.signature(module.forward).parameters)
    plugs, parts = [], []
    for name, keyword, value in entries:
        array = value
        if isinstance(value, torch.Tensor):
            array = value.detach().cpu()
            array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()  # numpy has no bfloat16
        _require_rows(name, array, len(entries))
        kind = FLOAT if array.dtype.kind == "f" else array.dtype.name
        lone = array.ndim == 1
        array = array[:, None] if lone else array
        plugs.append(TensorBinding(Port(name, array.shape[1:], kind), keyword, lone))
        exact = np.float32 if kind == FLOAT else np.float64
        parts.append(np.ascontiguousarray(array, dtype=exact).astype(np.float64))
    counts = {plug.port.name: len(part) for plug, part in zip(plugs, parts, strict=True)}
    require_as_many(counts, "the tensors of the example")
    return join(parts), Wiring(tuple(plugs))


def named_inputs(example: Any, parameters: Mapping[str, inspect.Parameter]) -> list[tuple[str, str, Any]]:
    """The name, the keyword (empty: by its place) and the rows of each input. `parameters`: of the forward that
    takes them. A dictionary at the end of a tuple has the inputs that are given by name. Raises OptionError."""
    if isinstance(example, Mapping) and example:
        takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        for name in map(str, example):
            if name not in parameters and not takes_any:
                raise OptionError(
                    f"the forward of the module has no parameter {name[:80]!r}",
                    code="input-unknown",
                    hint=advice(name, parameters, what="available"),
                )
        return [(_free(name, at), name, value) for at, (name, value) in enumerate(example.items())]
    values = list(example) if isinstance(example, tuple | list) else [example]
    if len(values) > 1 and isinstance(values[-1], Mapping):
        first = (
            named_inputs(tuple(values[:-1]), parameters)
            if len(values) > 2
            else [(_place(0, parameters), "", values[0])]
        )
        return first + named_inputs(values[-1], parameters)
    if len(values) == 1:
        return [(INPUT, "", values[0])]
    return [(_free(_place(at, parameters), at), "", value) for at, value in enumerate(values)]


def _place(at: int, parameters: Mapping[str, inspect.Parameter]) -> str:
    """The name of the parameter at position `at`."""
    places = [name for name, parameter in parameters.items() if parameter.kind in PLACES]
    return places[at] if at < len(places) else f"{INPUT}{at}"


def require_as_many(counts: Mapping[str, int], what: str) -> None:
    """Raises OptionError for inputs with different numbers of rows. `what`: a text for the inputs."""
    if len(set(counts.values())) != 1:
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise OptionError(
            f"{what} differ in their number of rows: {shown}",
            code="rows-differ-in-number",
            hint="pass the same number of rows for each input",
        )


def resampled(values: npt.NDArray[Any], count: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    """Rows [count, ...] that have, in each place, a value of some row there: other whole numbers may be invalid for the
    model."""
    flat = values.reshape(len(values), -1)
    rows = flat[rng.integers(len(flat), size=(count, flat.shape[1])), np.arange(flat.shape[1])]
    return rows.reshape(count, *values.shape[1:])


def _free(name: str, at: int) -> str:
    """A name that no other tensor has."""
    return f"{INPUT}{at}_{name}" if OURS.fullmatch(name) else name


def _require_rows(name: str, array: Any, count: int) -> None:
    """Raises OptionError for a value that is not a tensor of rows."""
    what = f"input {name} of the example" if count > 1 else "the example"
    fits = isinstance(array, np.ndarray) and array.ndim >= (1 if count > 1 else 2) and array.size > 0
    if not fits or (array.dtype.kind != "f" and array.dtype.name not in WHOLE):
        kind = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        if kind.startswith("complex"):
            raise OptionError(
                f"{what} is {array.dtype}; {REAL}",
                code="rows-wrong-shape",
                hint="pass real and imaginary parts as two inputs",
            )
        raise OptionError(
            f"{what} is {kind}, expected a tensor [rows, ...] of floating-point or whole numbers",
            code="rows-wrong-shape",
            hint=SEVERAL,
        )
    if not np.isfinite(array).all():
        raise OptionError(
            "the example rows have values that are not finite",
            code="rows-not-finite",
            hint="remove rows with NaN or infinity",
        )
    if array.dtype.kind != "f" and np.abs(array.astype(np.float64)).max() > LARGEST_INPUT:
        raise OptionError(
            f"{what} has whole numbers above {LARGEST_INPUT}, which float32 cannot represent exactly",
            code="rows-too-large",
            hint="pass rows with smaller numbers",
        )


def load(path: Path) -> Any:
    """Rows from a .npy, .csv or .npz file, at most ROWS_LIMIT; for an .npz with several arrays a dictionary, or a
    tuple if they have no names. Raises OptionError."""
    try:
        if path.suffix == ".csv":
            text = csv_text.decode(str(path), path.read_bytes())
            return np.array(csv_text.parse(str(path), text, most=ROWS_LIMIT), np.float32)
        loaded = np.load(path, allow_pickle=False, mmap_mode="r")
        if isinstance(loaded, np.ndarray):
            return np.array(loaded[:ROWS_LIMIT])
        with loaded:
            arrays = {name: loaded[name][:ROWS_LIMIT] for name in loaded.files}
    except csv_text.CsvError as error:
        raise OptionError(str(error), code=error.code, hint=error.hint) from error
    except csv_columns.DAMAGED as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise OptionError(
            f"{path} cannot be read as rows: {why}",
            code="rows-unreadable",
            hint="write the file with numpy.save('rows.npy', rows), or as .csv",
        ) from error
    if not arrays:
        raise OptionError(
            f"{path} has no array, expected at least one",
            code="rows-unreadable",
            hint="write the file with numpy.savez",
        )
    if len(arrays) == 1 or all(name.startswith(UNNAMED) for name in arrays):
        return tuple(arrays.values())
    return arrays


def draw(shape: str) -> npt.NDArray[np.float32]:
    """RANDOM_ROWS rows of a shape such as "1,8,8" or "1x8x8". Raises OptionError."""
    parts = [part.strip() for part in shape.replace("x", ",").split(",")]
    sizes = [int(part) if part.isdecimal() and len(part) < 10 else 0 for part in parts]
    if not all(sizes) or RANDOM_ROWS * int(np.prod(sizes, dtype=object)) > NUMBERS_LIMIT:
        raise OptionError(
            f"--input-shape is {shape[:80]!r}, expected the shape of one row",
            code="option-malformed",
            hint="write positive integers with commas between them, such as --input-shape 1,8,8",
        )
    return np.random.default_rng(0).normal(size=(RANDOM_ROWS, *sizes)).astype(np.float32)


FIRST_MODULES = 4  # how many are asked, in the order they were made in
USUAL = (28, 32, 64, 224, 8, 16)  # sides of pictures
SIDES = (*range(1, 65), 80, 96, 112, 128, 160, 192, 224, 256)
CHANNELS = (1, 3, 2, 4)  # where no convolution tells them
ROWS, LARGEST_GUESS = 3, 2_000_000  # rows tried at once; numbers in a row
SECONDS = 20.0  # for a first shape, and a tenth of it for another one

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Guess:
    """The first shape of a row that works, and a second one, or ()."""

    shape: Shape
    other: Shape

    def __str__(self) -> str:
        shape, other = (",".join(map(str, sizes)) for sizes in (self.shape, self.other))
        return f"{shape}, found by testing" + (f" ({other} runs, too; select it with --input-shape)" if other else "")


def guess(module: nn.Module) -> Guess:
    """Test shapes from likely to less likely, within a time limit. Raises OptionError if none works."""
    working: list[Shape] = []
    tried: set[Shape] = set()
    end = time.monotonic() + SECONDS
    with evaluating(module):
        for shape in _likely(module):
            if len(working) == 2 or time.monotonic() > end:
                break
            if shape not in tried and _runs(module, shape):
                working.append(shape)
                end = min(end, time.monotonic() + SECONDS / 10)
            tried.add(shape)
    if not working:
        raise OptionError(
            "the shape of the inputs is not known: the module does not record it, and no likely shape runs",
            code="input-shape-required",
            hint="pass rows with --example rows.npy, or their shape with --input-shape 1,8,8; "
            "or let the factory return (module, example rows)",
        )
    return Guess(working[0], working[1] if len(working) > 1 else ())


def _likely(module: nn.Module) -> Iterator[Shape]:
    """Shapes of a row, the most likely first; some more than once. The shapes of the first modules with tensors decide:
    pictures with the channels of a convolution, otherwise tokens or single rows of a width."""
    firsts = list(itertools.islice(_firsts(module), FIRST_MODULES))
    tokens = _tokens(module)
    for widths, axes in firsts:
        for width in widths:
            if axes:
                yield from ((width, *[side] * axes) for side in (*USUAL, *SIDES))
            else:
                yield from ((count, width) for count in tokens)
                yield (width,)
    for widths, axes in firsts:
        if not axes:
            yield from ((length, width) for width in widths for length in SIDES)
            yield from ((width, 1) for width in widths)
    yield from ((channels, side, side) for channels in CHANNELS for side in (*USUAL, *SIDES))


def _tokens(module: nn.Module) -> list[int]:
    """The numbers of tokens that the direct parameters of a module with submodules suggest."""
    parts = filter(_has_weighted_parts, module.modules())
    bare = [tensor for part in parts for tensor in part.parameters(recurse=False) if tensor.ndim >= 2]
    return list(dict.fromkeys(size for tensor in bare for size in tensor.shape[-2:-1] if size > 1))


def _firsts(module: nn.Module) -> Iterator[tuple[Sequence[int], int]]:
    """The possible inputs of each module with tensors, in the order of their creation: numbers of columns or channels,
    and the number of axes after the channels, such as 2 for pictures; 0 for columns."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            yield (part.in_channels,), part.weight.ndim - 2
            continue
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        sizes = tuple(dict.fromkeys(size for tensor in own for size in reversed(tensor.shape) if size))
        if sizes and not _has_weighted_parts(part):
            yield sizes, 0


def _has_weighted_parts(module: nn.Module) -> bool:
    return any(list(part.parameters()) for part in module.children())


def _runs(module: nn.Module, shape: Shape) -> bool:
    """Whether the module accepts rows of that shape, and returns a separate output for each."""
    if math.prod(shape) > LARGEST_GUESS:
        return False
    x = torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0))
    kinds = [tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()]
    x = x.to(kinds[0] if kinds else x.dtype)
    try:
        with foreign_code():
            with torch.no_grad(), plain(x.dtype):
                together, alone = module(x), module(x[1:2])
            return (
                isinstance(together, torch.Tensor)
                and together.ndim >= 2
                and together.shape == (ROWS, *alone.shape[1:])
                and bool(torch.allclose(together[1:2].float(), alone.float(), rtol=1e-2, atol=1e-3, equal_nan=True))
            )
    except ForeignError:
        return False
