"""`kanserve export --module pkg.mod:factory`: factory, weights and example rows become an export.

The one place where code that comes with a model runs: because its user names it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kanexport.answers.rows import load as load_answers
from kanexport.errors import OptionError
from kanexport.hybrid import inputs, twice, weights
from kanexport.hybrid.convert import convert
from kanexport.hybrid.faults import ForeignError, first_line, foreign_code, is_users_own, place, printing_to_stderr
from kanexport.hybrid.guess import guess
from kanexport.hybrid.lend import unwrapped
from kanexport.options import Options
from kanexport.packing.publish import Result, Target


def run(
    factory: str,
    checkpoint: Path | None,
    example: Path | None,
    input_shape: str | None,
    target: Target,
    options: Options,
    advance: Callable[[int, int], None],
    answers: Sequence[Path] = (),
    phase: Callable[[str], None] = lambda words: None,
) -> Result:
    """Export the module that a factory makes. `factory`: "package.module:function". The rows are those of `example`,
    otherwise random ones of `input_shape`, otherwise the factory's. Without these, they are random ones of a shape
    that the exporter finds by trying. `answers`: files with the trained model's outputs. `phase` receives a text on
    each step that begins. Raises ExportError; then nothing was written."""
    target.check()
    with _importable(Path.cwd()), printing_to_stderr():
        before = set(sys.modules)
        phase(f"calling {factory[:80]}")
        module, rows = _make(factory)
        files = weights.load(module, checkpoint) if checkpoint is not None else ()
        if example is not None:
            rows = inputs.load(example)
        elif input_shape is not None:
            rows = inputs.draw(input_shape)
        assumed = {}
        if rows is None:
            phase("trying which shape of rows the module takes")
            guessed = guess(module)
            rows = inputs.draw(",".join(map(str, guessed.shape)))
            assumed["input_shape"] = str(guessed)
        phase("calling it again, for a module to compare")
        assumed |= _again(factory, module, rows, checkpoint, before)
        known = load_answers(answers) if answers else None
        return convert(
            module,
            rows,
            target,
            options=options.given,
            assumed=assumed,
            files=files,
            answers=known,
            advance=advance,
            phase=phase,
        )


def _again(
    factory: str, module: nn.Module, rows: Any, checkpoint: Path | None, before: Collection[str]
) -> dict[str, str]:
    """Build the module once more and hold both against each other; gives what is assumed of them. `before`:
    Python's modules before the first time. Raises InvalidKan where they differ in what no weights hold."""
    try:
        with twice.other_randomness():
            second = _made_anew(factory, before)
    except OptionError as error:
        return {"constants": f"those of the first call of the factory, which cannot be called again: {error.message}"}
    if checkpoint is None and twice.drawn(module, second):
        return {"weights": "as the factory drew them, others each time; --checkpoint gives trained ones"}
    weights.put(second, module.state_dict())
    twice.require_same(module, second, rows)
    return {}


def _made_anew(factory: str, before: Collection[str]) -> nn.Module:
    """What the factory makes where the user's own files are imported anew too, since they may draw numbers;
    Python's modules are as they were afterwards."""
    own = {
        name: kept
        for name, kept in sys.modules.items()
        if name not in before and is_users_own(getattr(kept, "__file__", None) or "<>")
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
        with foreign_code():
            product = getattr(importlib.import_module(name), function)()
    except ForeignError as foreign:
        where = place(foreign.error)
        raise OptionError(
            f"{factory[:200]} cannot be used: {first_line(foreign.error)}" + (f" ({where})" if where else ""),
            hint="name an importable function that takes nothing and returns the torch.nn.Module",
        ) from foreign.error
    module, rows = product if isinstance(product, tuple) and len(product) == 2 else (product, None)
    if not isinstance(module, nn.Module):
        raise OptionError(f"{factory[:200]} returned {type(module).__name__}, expected a torch.nn.Module")
    return unwrapped(module), rows
