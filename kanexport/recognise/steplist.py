"""The user's own list of steps, where a state dict leaves the order open.

    [[step]]
    layer = "kan1"           # the key prefix of a KAN layer; its library is recognised
    [[step]]
    layernorm = "ln1"        # epsilon = 1e-5
    [[step]]
    function = "tanh"        # any base activation
    [[step]]
    layer = "kan2"
    family = "chebykan"      # only where it is not recognised

A layer, linear, layernorm, batchnorm or prelu is given by its key prefix, "" for tensors
without one. `dropout = 0.1` does nothing; `affine = ""` has scale and bias, `select = ""` has
inputs, the columns that are kept, `of` how many. The kinds of a step are the keys of `KINDS`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.errors import OptionError

# What may stand beside the kind in a step.
KINDS: dict[str, frozenset[str]] = {
    "layer": frozenset({"family"}),
    "linear": frozenset(),
    "layernorm": frozenset({"epsilon"}),
    "batchnorm": frozenset({"epsilon"}),
    "prelu": frozenset(),
    "function": frozenset(),
    "dropout": frozenset(),
    "affine": frozenset({"scale", "bias"}),
    "select": frozenset({"inputs", "of"}),
}
SIZE_LIMIT, STEP_LIMIT, LIST_LIMIT = 2**20, 10_000, 100_000
TEXT_LIMIT = 500  # characters of a key prefix or name
NUMBER_LIMIT = 1e30
DOTS_LIMIT = 64  # in one key; tomllib takes quadratic time over them
SEE = "see docs/steplist.md"


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One step: its kind, the key prefix or name it is given with, and its settings."""

    kind: str
    value: Any
    settings: dict[str, Any]


def load(path: Path) -> tuple[StepSpec, ...]:
    """Read a step list. Raises OptionError, naming the step and what is wrong."""
    try:
        document = tomllib.loads(_text(path))
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no text, no TOML, or a number of thousands of digits
        raise OptionError(f"{path} is not TOML: {str(error)[:200]}", hint=SEE) from error
    steps = document.pop("step", None)
    if document or not isinstance(steps, list) or not 1 <= len(steps) <= STEP_LIMIT:
        raise OptionError(f"{path}: expected a list of [[step]] tables and nothing else", hint=SEE)
    try:
        return tuple(_step(at, step) for at, step in enumerate(steps, start=1))
    except OptionError as error:
        raise OptionError(f"{path}: {error.message}", hint=error.hint) from error


def _text(path: Path) -> str:
    """What the file holds, where it is one that TOML's parser is quick with."""
    if not path.is_file():
        raise OptionError(f"{path} is no file", hint=SEE)
    if path.stat().st_size > SIZE_LIMIT:
        raise OptionError(f"{path} is larger than {SIZE_LIMIT} bytes", hint=SEE)
    text = path.read_text(encoding="utf-8")
    keys = re.split(r"[^\w.\"'-]+", text.replace(" ", "").replace("\t", ""))
    if any(key.count(".") > DOTS_LIMIT for key in keys):
        raise OptionError(f"{path} has a key of more than {DOTS_LIMIT} parts", hint=SEE)
    return text


def _step(at: int, step: Any) -> StepSpec:
    kinds = [kind for kind in KINDS if isinstance(step, dict) and kind in step]
    if len(kinds) != 1:
        found = ", ".join(map(str, step)) if isinstance(step, dict) else repr(step)
        raise OptionError(f"step {at} ({found[:80]}) must have one of: {', '.join(KINDS)}", hint=SEE)
    kind = kinds[0]
    settings = {key: value for key, value in step.items() if key != kind}
    unknown = sorted(set(settings) - KINDS[kind])
    if unknown:
        raise OptionError(f"step {at} ({kind}) has no setting {unknown[0]!r}", hint=SEE)
    value = step[kind]
    if kind in ("dropout", "affine", "select"):
        _check_lists(at, kind, settings)
    elif not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise OptionError(f"step {at}: {kind} is {value!r:.80}, expected a text of {TEXT_LIMIT} at most", hint=SEE)
    if not isinstance(settings.get("family", ""), str):
        raise OptionError(f"step {at}: family must be a text", hint=SEE)
    epsilon = settings.get("epsilon", 1e-5)
    if not isinstance(epsilon, int | float) or isinstance(epsilon, bool) or not 0 <= epsilon < 1:
        raise OptionError(f"step {at}: epsilon is {epsilon!r:.80}, expected a small number", hint=SEE)
    return StepSpec(kind, value, settings)


def _check_lists(at: int, kind: str, settings: dict[str, Any]) -> None:
    if kind == "dropout":
        return  # nothing at inference
    number = int if kind == "select" else int | float
    for name in KINDS[kind] - {"of"}:
        values = settings.get(name)
        fits = isinstance(values, list) and 0 < len(values) <= LIST_LIMIT
        if not fits or not all(
            isinstance(v, number) and not isinstance(v, bool) and abs(v) < NUMBER_LIMIT for v in values or ()
        ):
            raise OptionError(f"step {at} ({kind}) needs {name} = [numbers]", hint=SEE)
    if kind == "select":
        _check_columns(at, settings["inputs"], settings.get("of", max(1, max(settings["inputs"]) + 1)))


def _check_columns(at: int, inputs: list[int], count: Any) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= LIST_LIMIT:
        raise OptionError(f"step {at} (select) is of {count!r:.80} columns, expected 1 to {LIST_LIMIT}", hint=SEE)
    if not all(0 <= column < count for column in inputs):
        raise OptionError(f"step {at} (select) has a column outside 0 to {count - 1}", hint=SEE)
