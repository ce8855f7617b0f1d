"""`kanexport.export`: a living module, from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from kanexport.answers.rows import load as load_answers
from kanexport.hybrid.convert import convert
from kanexport.options import Options
from kanexport.packing import baseline
from kanexport.packing.explained import Asked
from kanexport.packing.publish import MAX_BATCH_SIZE, Result, Target
from kanexport.proof.tolerance import OUTPUT_TOLERANCE
from kanexport.shared.naming import Names
from kanexport.shared.outside import AS_TRAINED


def export(
    module: nn.Module,
    example_inputs: Any,
    *,
    name: str,
    repository: str | Path = "models",
    version: int = 1,
    options: Mapping[str, object] | None = None,
    functions: Mapping[str, str] | None = None,
    dtype: str = "float32",
    max_batch_size: int = MAX_BATCH_SIZE,
    tolerance: float = OUTPUT_TOLERANCE,
    force: bool = False,
    answers: str | Path | None = None,
    features: Sequence[str] = (),
    units: Sequence[str] = (),
    classes: Sequence[str] = (),
    description: str = "",
    reference: Any = None,
    explain: bool | Sequence[str | int] = False,
    outside: str = AS_TRAINED,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Result:
    """Export a module that contains KAN layers into a model repository.

    `example_inputs`: rows as the module takes them, [rows, ...], a tensor or array (or a tuple of one); the proof is
    made with them, so real rows are better than random ones. `options`: what neither tensors nor attributes tell, as
    in `--option`; `functions`: symbolic functions of your own by name, as expressions in x, as in `--function`.
    `features`, `classes`, `units`, `description`: what its numbers, and the model, are called. `reference`, `outside`:
    as `--reference` and `--outside` take them; `reference` may also be a DataFrame. Its columns, or the header of a
    .csv, name the features if `features` does not. `explain`: as `--explain`, or the layers of `--explain-layers`.
    `answers`: what the trained model answered, as `record_answers` writes it. The module is as it was afterwards.
    Returns where the version lies and its manifest. Raises ExportError; then nothing was written.
    """
    target = Target(
        repository=Path(repository),
        name=name,
        version=version,
        dtype=dtype,
        max_batch_size=max_batch_size,
        tolerance=tolerance,
        force=force,
        names=Names(tuple(features), tuple(units), tuple(classes), description),
        reference=None if reference is None else baseline.of(reference),
        explain=Asked.of(explain),
        outside=outside,
    )
    given = Options.parse(_pairs(options or {}), functions=_pairs(functions or {}))
    known = None if answers is None else load_answers([Path(answers)])
    return convert(module, example_inputs, target, options=given.given, answers=known, advance=advance)


def _pairs(given: Mapping[str, object]) -> list[str]:
    """As the command line has them."""
    return [f"{name}={value}" for name, value in given.items()]
