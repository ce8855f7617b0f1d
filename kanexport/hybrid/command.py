"""`kanserve export --module pkg.mod:factory`: factory, weights and example rows become an export.

The one place where code that comes with a model runs: because its user names it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kanexport.answers.rows import load as load_answers
from kanexport.errors import OptionError
from kanexport.hybrid import inputs, weights
from kanexport.hybrid.convert import convert
from kanexport.hybrid.faults import ForeignError, first_line, foreign_code, place
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
) -> Result:
    """Export what a factory makes. `factory`: "package.module:function". The rows are those
    of `example`, else random ones of `input_shape`, else the factory's, else random ones of
    a shape that is found by trying. `answers`: files with what
    the trained model answered. Raises ExportError; then nothing was written."""
    target.check()
    with _importable(Path.cwd()):
        module, rows = _make(factory)
        files = weights.load(module, checkpoint) if checkpoint is not None else ()
        if example is not None:
            rows = inputs.load(example)
        elif input_shape is not None:
            rows = inputs.draw(input_shape)
        assumed = {}
        if rows is None:
            guessed = guess(module)
            rows = inputs.draw(",".join(map(str, guessed.shape)))
            assumed["input_shape"] = str(guessed)
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
        )


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
