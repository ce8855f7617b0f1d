"""`kanserve export --module pkg.mod:factory`: the user's code makes the module, a
checkpoint its weights, a file or a shape the example rows.

The one place where code that comes with a model runs: because its user names it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.errors import CheckpointError, OptionError
from kanexport.files import checkpoint
from kanexport.hybrid.convert import convert
from kanexport.hybrid.faults import first_line, place
from kanexport.hybrid.guess import guess
from kanexport.hybrid.lend import unwrapped
from kanexport.manifest import SourceFile
from kanexport.options import Options
from kanexport.packing.publish import Result, Target

RANDOM_ROWS = 32
ROWS_LIMIT, NUMBERS_LIMIT = 1024, 100_000_000
COMPILED = "_orig_mod."
SIZES = "the factory must build the module with the sizes it was trained with"


def run(
    factory: str,
    weights: Path | None,
    example: Path | None,
    input_shape: str | None,
    target: Target,
    options: Options,
    advance: Callable[[int, int], None],
) -> Result:
    """Export what a factory makes. Raises ExportError."""
    target.check()
    with _importable(Path.cwd()):
        module, rows = _make(factory)
        files = _load(module, weights) if weights is not None else ()
        if example is not None:
            rows = _read(example)
        elif input_shape is not None:
            rows = _draw(input_shape)
        assumed = {}
        if rows is None:
            found = guess(module)
            rows = _draw(",".join(map(str, found.shape)))
            assumed["input_shape"] = str(found)
        return convert(module, rows, target, options=options.given, assumed=assumed, files=files, advance=advance)


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """As if Python had been started here."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _make(factory: str) -> tuple[nn.Module, Any]:
    """The module, and the example rows if the factory gives them too."""
    name, colon, function = factory.partition(":")
    if not colon or not name or not function:
        raise OptionError(f"--module is {factory[:80]!r}, expected package.module:factory")
    try:
        make = getattr(importlib.import_module(name), function)
        made = make()
    except (Exception, SystemExit) as error:  # a script that parses arguments exits
        where = place(error)
        raise OptionError(
            f"{factory[:200]} cannot be used: {first_line(error)}" + (f" ({where})" if where else ""),
            hint="name an importable function that takes nothing and returns the torch.nn.Module",
        ) from error
    module, rows = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise OptionError(f"{factory[:200]} returned {type(module).__name__}, expected a torch.nn.Module")
    return unwrapped(module), rows


def _load(module: nn.Module, path: Path) -> tuple[SourceFile, ...]:
    """Weights through our own reader, which executes nothing. Raises CheckpointError."""
    loaded = checkpoint.load(path)
    # torch.compile names what it wraps.
    wanted = {key.replace(COMPILED, ""): value for key, value in module.state_dict().items()}
    state = _fitting({key.replace(COMPILED, ""): value for key, value in loaded.tensors.items()}, wanted)
    missing, extra = [key for key in wanted if key not in state], [key for key in state if key not in wanted]
    if missing or extra:
        some = ", ".join([f"-{key}" for key in missing[:4]] + [f"+{key}" for key in extra[:4]])
        raise CheckpointError(
            f"{path}: the weights are not this module's: {len(missing)} tensors are missing, {len(extra)} are unknown "
            f"({some})",
            hint=SIZES,
        )
    for key, value in state.items():
        if value.shape != tuple(wanted[key].shape):
            shape = tuple(wanted[key].shape)
            raise CheckpointError(f"{path}: {key} has shape {value.shape}, the module has {shape}", hint=SIZES)
    weights = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}
    module.load_state_dict({key: weights[key.replace(COMPILED, "")] for key in module.state_dict()})
    return loaded.files


def _fitting(tensors: dict[str, npt.NDArray[Any]], wanted: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The module's own tensors where a trainer put it under a prefix: `module.` of
    DataParallel, `model.` of many; what lies beside it there is the trainer's."""
    if not wanted or set(wanted) <= set(tensors):
        return tensors
    first = next(iter(wanted))
    starts = [key.removesuffix(first) for key in tensors if key.endswith("." + first)]
    whole = [start for start in starts if all(start + key in tensors for key in wanted)]
    if len(whole) != 1:
        return tensors
    return {key: tensors[whole[0] + key] for key in wanted}


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        if path.suffix == ".csv":
            rows = np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float32, max_rows=ROWS_LIMIT)
        else:
            rows = np.load(path, allow_pickle=False, mmap_mode="r")
        if not isinstance(rows, np.ndarray):
            raise OptionError(f"{path} holds several arrays, expected one (.npy)")
        return np.array(rows[:ROWS_LIMIT])
    except (OSError, ValueError, EOFError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise OptionError(
            f"{path} cannot be read as rows: {why}", hint="numpy.save('rows.npy', rows), or a .csv"
        ) from error


def _draw(shape: str) -> npt.NDArray[np.float32]:
    parts = [part.strip() for part in shape.replace("x", ",").split(",")]
    sizes = [int(part) if part.isdecimal() and len(part) < 10 else 0 for part in parts]
    if not all(sizes) or RANDOM_ROWS * int(np.prod(sizes, dtype=object)) > NUMBERS_LIMIT:
        raise OptionError(f"--input-shape is {shape[:80]!r}, expected the shape of one row, such as 1,8,8")
    return np.random.default_rng(0).normal(size=(RANDOM_ROWS, *sizes)).astype(np.float32)
