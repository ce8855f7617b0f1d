"""`kanserve export --module pkg.mod:factory`: the export of a module from its factory, weights and example rows.

The one place where code that comes with a model runs: because its user names it.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from kanexport.bundle.publish import Result, Target
from kanexport.errors import ModuleRefused, OptionError
from kanexport.options import Options
from kanexport.parity.data import load as load_recorded
from kanexport.torch_export import inputs, match, state_dict
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
from kanexport.torch_export.capture import ReferenceModule
from kanexport.torch_export.convert import convert
from kanexport.torch_export.inputs import guess
from kanexport.torch_export.kan_candidates import Whole


def run(
    factory: str,
    checkpoint: Path | None,
    example: Path | None,
    input_shape: str | None,
    target: Target,
    options: Options,
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
        files = state_dict.load(module, checkpoint) if checkpoint is not None else ()
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
        recorded = load_recorded(expected_outputs) if expected_outputs else None
        return convert(
            module,
            rows,
            target,
            options=options.explicit,
            assumed=assumed,
            files=files,
            recorded=recorded,
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
    if checkpoint is None and have_different_weights(module, second):
        return {"weights": "random, different in each call of the factory; pass trained ones with --checkpoint"}
    state_dict.assign(second, module.state_dict())
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
        where = user_line(foreign.error)
        raise OptionError(
            f"{factory[:200]} cannot be used: {first_line(foreign.error)}" + (f" ({where})" if where else ""),
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


Array = npt.NDArray[np.float64]

SEED = 20_240_229  # another state of every generator than a program begins with
SAME = 1e-9  # relative, in float64; float32 has its own rounding
NAMED = 5  # of what differs
ROWS = 4  # near ones; a large module takes seconds for each


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


def have_different_weights(first: nn.Module, second: nn.Module) -> bool:
    """Whether two modules of one factory have different weights."""
    return bool(_different_names(first.state_dict(), second.state_dict()))


def require_same(first: nn.Module, second: nn.Module, example: Any) -> None:
    """Raises InvalidKan if two modules of one factory with the same weights differ in their outputs for the
    `example`. The error names the differing attributes. Raises OptionError as `inputs.rows`."""
    x, wiring = inputs.rows(example, first)
    rows = np.concatenate([x[:ROWS], match.far(x[:1], match.floating(wiring.ports, x))])
    answers = [_answers(Whole(module, wiring), rows) for module in (first, first, second)]
    if not _close(answers[0], answers[1]):  # random at inference, which is refused elsewhere
        return
    if _close(answers[0], answers[2]):
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


def _answers(whole: Whole, rows: Array) -> Array:
    oracle = ReferenceModule.of(whole, rows[:2])
    with lent(whole, oracle.dtype):
        return oracle.run(rows)[0]


def _close(first: Array, second: Array) -> bool:
    if first.shape != second.shape:
        return False
    scale = np.abs(first[np.isfinite(first)]).max(initial=0) or 1.0
    return bool(np.allclose(first, second, rtol=0, atol=SAME * scale, equal_nan=True))


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
