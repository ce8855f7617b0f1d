"""`kanserve export --module pkg.mod:factory`: the export of a module from its factory, weights and example rows.

The one place where code that comes with a model runs: because its user names it.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.bundle.publish import Result, Target
from kanexport.errors import CheckpointError, ModuleRefused, OptionError
from kanexport.formats.checkpoint import load as load_checkpoint
from kanexport.options import KnownFacts
from kanexport.shared.manifest import SourceFile
from kanexport.torch_export import inputs, match
from kanexport.torch_export.borrowed_module import (
    ForeignError,
    first_line,
    foreign_code,
    is_users_own,
    lent,
    printing_to_stderr,
    unwrapped,
    user_line,
)
from kanexport.torch_export.capture import ReferenceModule, close
from kanexport.torch_export.convert import convert
from kanexport.torch_export.inputs import guess
from kanexport.torch_export.io_binding import Whole

T = TypeVar("T")

COMPILED = "_orig_mod."  # torch.compile names what it wraps
NAMED_TENSORS = 4  # in an error on weights
SIZES = "build the module in the factory with the sizes of its training"
SEED = 20_240_229  # another state of every generator than a program begins with
SAME = 1e-9  # relative, in float64; float32 has its own rounding
NAMED = 5  # of what differs
ROWS = 4  # near ones; a large module takes seconds for each


def run(
    factory: str,
    checkpoint: Path | None,
    example: Path | None,
    input_shape: str | None,
    target: Target,
    facts: KnownFacts,
    advance: Callable[[int, int], None],
    expected_outputs: Sequence[Path] = (),
    phase: Callable[[str], None] = lambda words: None,
) -> Result:
    """Export the module that a factory returns. Raises ExportError; then nothing was written.

    factory           "package.module:function"
    example           file of rows; otherwise rows are random ones of `input_shape`, otherwise the factory's, otherwise
                      random ones of a shape that the exporter finds by trying
    expected_outputs  files with the trained model's outputs
    phase             receives a text on each step that begins
    """
    target.check()
    with _importable(Path.cwd()), printing_to_stderr():
        before = set(sys.modules)
        phase(f"calling {factory[:80]}")
        module, rows = _make(factory)
        files = load_weights(module, checkpoint) if checkpoint is not None else ()
        if example is not None:
            rows = inputs.load(example)
        elif input_shape is not None:
            rows = inputs.draw(input_shape)
        assumed = {}
        if rows is None:
            phase("testing shapes of rows for the module")
            guessed = guess(module)
            rows = inputs.draw(",".join(map(str, guessed.shape)))
            assumed["input_shape"] = str(guessed)
        phase("calling the factory again, to compare the modules")
        assumed |= _again(factory, module, rows, checkpoint, before)
        return convert(
            module,
            rows,
            target,
            options=dict(facts.explicit),
            assumed=assumed,
            files=files,
            expected=expected_outputs,
            advance=advance,
            phase=phase,
        )


def _again(
    factory: str, module: nn.Module, rows: Any, checkpoint: Path | None, before: Collection[str]
) -> dict[str, str]:
    """Build the module a second time and compare both. Returns the assumptions about them. `before`: the Python
    modules before the first call. Raises InvalidKan if they differ in values that are not weights."""
    try:
        with other_randomness():
            second = _fresh_module(factory, before)
    except OptionError as error:
        return {"constants": f"from the first call of the factory, which cannot be called again: {error.message}"}
    if checkpoint is None and _different_names(module.state_dict(), second.state_dict()):
        return {"weights": "random, different in each call of the factory; pass trained ones with --checkpoint"}
    assign(second, module.state_dict())
    require_same(module, second, rows)
    return {}


def _fresh_module(factory: str, before: Collection[str]) -> nn.Module:
    """The module of the factory after a fresh import of the user's files, because these may draw random numbers. The
    Python modules are restored afterwards."""
    own = {
        name: module
        for name, module in sys.modules.items()
        if name not in before and is_users_own(getattr(module, "__file__", None) or "<>")
    }
    for name in own:
        del sys.modules[name]
    try:
        return _make(factory)[0]
    except OptionError:  # some code can be imported only once
        sys.modules.update(own)
        return _make(factory)[0]
    finally:
        sys.modules.update(own)


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """A context in which imports work as if Python had been started in this folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _make(factory: str) -> tuple[nn.Module, Any]:
    """The module, and the example rows if the factory returns them."""
    name, colon, function = factory.partition(":")
    if not colon or not name or not function:
        raise OptionError(
            f"--module is {factory[:80]!r}, expected package.module:factory",
            code="option-malformed",
            hint="write --module PKG.MOD:FACTORY",
        )
    try:
        with foreign_code():
            product = getattr(importlib.import_module(name), function)()
    except ForeignError as foreign:
        raise OptionError(
            f"{factory[:200]} cannot be used: {first_line(foreign.error)}{user_line(foreign.error)}",
            code="factory-failed",
            hint="name an importable function without required arguments that returns the torch.nn.Module",
        ) from foreign.error
    module, rows = product if isinstance(product, tuple) and len(product) == 2 else (product, None)
    if not isinstance(module, nn.Module):
        raise OptionError(
            f"{factory[:200]} returned {type(module).__name__}, expected a torch.nn.Module",
            code="factory-returned-no-module",
            hint="return the torch.nn.Module, or (module, example rows)",
        )
    return unwrapped(module), rows


def load_weights(module: nn.Module, path: Path) -> tuple[SourceFile, ...]:
    """Load weights through the readers of kanserve, which execute no code, and return the files. Raises
    CheckpointError if they are not those of this module: every tensor must exist, without others, in its shape."""
    loaded = load_checkpoint(path)
    own = _uncompiled(module.state_dict())
    state = _without_prefix(_uncompiled(loaded.tensors), own)
    missing, extra = [key for key in own if key not in state], [key for key in state if key not in own]
    if missing or extra:
        names = ", ".join([f"-{key}" for key in missing[:NAMED_TENSORS]] + [f"+{key}" for key in extra[:NAMED_TENSORS]])
        raise CheckpointError(
            f"{path}: the weights do not fit this module: {len(missing)} tensors are missing, {len(extra)} are unknown "
            f"({names})",
            code="weights-do-not-fit-module",
            hint=SIZES,
        )
    for key, value in state.items():
        shape = tuple(own[key].shape)
        if value.shape != shape:
            raise CheckpointError(
                f"{path}: {key} has shape {value.shape}, expected {shape}", code="weights-do-not-fit-module", hint=SIZES
            )
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in state.items()}
    assign(module, {key: tensors[key.replace(COMPILED, "")] for key in module.state_dict()})
    return loaded.files


def assign(module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Load a state dict, also into weights of `expand`, which have one number in many places."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.layout == torch.strided and 0 in tensor.stride():
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    module.load_state_dict(state)


def _uncompiled(state: Mapping[str, T]) -> dict[str, T]:
    return {key.replace(COMPILED, ""): value for key, value in state.items()}


def _without_prefix(tensors: dict[str, npt.NDArray[Any]], own: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """The tensors of the module if a trainer put it under a prefix: `module.` of DataParallel, `model.` of many.
    Other tensors next to it belong to the trainer."""
    if not own or set(own) <= set(tensors):
        return tensors
    first = next(iter(own))
    prefixes = [key.removesuffix(first) for key in tensors if key.endswith("." + first)]
    complete = [prefix for prefix in prefixes if all(prefix + key in tensors for key in own)]
    if len(complete) != 1:
        return tensors
    return {key: tensors[complete[0] + key] for key in own}


@contextlib.contextmanager
def other_randomness() -> Iterator[None]:
    """A context in which torch, numpy and Python draw other random numbers; it restores their states afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def require_same(first: nn.Module, second: nn.Module, example: Any) -> None:
    """Raises InvalidKan if two modules of one factory with the same weights differ in their outputs for the
    `example`. The error names the differing attributes. Raises OptionError as `inputs.rows`."""
    x, wiring = inputs.rows(example, first)
    rows = np.concatenate([x[:ROWS], match.far(x[:1], match.floating(wiring.ports, x))])
    outputs = []
    for module in (first, first, second):
        oracle = ReferenceModule.of(Whole(module, wiring), rows[:2])
        with lent(oracle.module, oracle.dtype):
            outputs.append(oracle.run(rows)[0])
    # The export rejects a module that is random at inference elsewhere.
    if not close(outputs[1], outputs[0], SAME) or close(outputs[2], outputs[0], SAME):
        return
    names = _different_names(_constants(first), _constants(second))
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    raise ModuleRefused(
        "modules of the factory with the same weights give different outputs: "
        + (f"{shown} is random and not in the state dict" if names else "a value that is not an attribute is random"),
        code="module-not-reproducible",
        hint="store random values in the state dict (register_buffer) and train again, or draw them in the factory "
        "from the seed of the training",
    )


def _constants(module: nn.Module) -> dict[str, Any]:
    """The constants of a module that a state dict lacks, by name: buffers that are not saved, and numbers, arrays
    and tensors among the attributes, also in lists."""
    saved = set(module.state_dict())
    constants = {name: value for name, value in module.named_buffers() if name not in saved}
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if not key.startswith("_") or isinstance(value, torch.Tensor):
                constants[f"{name}.{key}".removeprefix(".")] = value
    return constants


def _different_names(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The names with different numbers in two tables."""
    return [name for name, value in first.items() if name not in second or not _equal(value, second[name])]


def _equal(first: Any, second: Any) -> bool:
    """Whether numbers, arrays, tensors and lists of them are equal; other values count as equal."""
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    left, right = _numbers(first), _numbers(second)
    if left is None or right is None:
        return True
    return bool(np.array_equal(left, right, equal_nan=left.dtype.kind in "fc" and right.dtype.kind in "fc"))


def _numbers(value: Any) -> npt.NDArray[Any] | None:
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            return None
        value = value.detach().cpu()
        value = (value.double() if value.dtype == torch.bfloat16 else value).resolve_conj().numpy()
    if isinstance(value, int | float | complex):
        value = np.asarray(value)
    return value if isinstance(value, np.ndarray) and value.dtype.kind in "biufc" else None
