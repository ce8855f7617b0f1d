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

A layer, linear, layernorm, groupnorm (with groups = 2), rmsnorm, batchnorm, prelu, swish or scaling
(what a scale and a shift do that were trained, or a scale alone) is given by its key prefix, ""
for tensors without one. `dropout = 0.1` does nothing; `affine = ""` has scale and bias, `select = ""` has
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
    "groupnorm": frozenset({"groups", "epsilon"}),
    "rmsnorm": frozenset({"epsilon"}),
    "prelu": frozenset(),
    "swish": frozenset(),
    "scaling": frozenset(),
    "function": frozenset(),
    "dropout": frozenset(),
    "affine": frozenset({"scale", "bias"}),
    "select": frozenset({"inputs", "of"}),
}
# Kinds whose value may be anything: no tensor and no function has that name.
UNNAMED = ("dropout", "affine", "select")
MAX_LIST_BYTES = 2**20  # a step is a line or two; only long affine steps need more than a few thousand
STEP_LIMIT = 10_000  # a KAN has at most 256 layers, each with a few steps
NUMBER_LIMIT = 100_000  # in one list: as many nodes as a model may have inputs
MAX_TEXT_CHARACTERS = 500  # of a key prefix or name, as long as a tensor's may be
MAX_NUMBER_MAGNITUDE = 1e30  # float32 holds it
DOT_LIMIT = 64  # in one key; tomllib takes quadratic time over them
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
    if path.stat().st_size > MAX_LIST_BYTES:
        raise OptionError(f"{path} is larger than {MAX_LIST_BYTES} bytes", hint=SEE)
    text = path.read_text(encoding="utf-8")
    keys = re.split(r"[^\w.\"'-]+", text.replace(" ", "").replace("\t", ""))
    if any(key.count(".") > DOT_LIMIT for key in keys):
        raise OptionError(f"{path} has a key of more than {DOT_LIMIT} parts", hint=SEE)
    return text


def _step(at: int, step: Any) -> StepSpec:
    """Step number `at` of the document, checked. Raises OptionError, naming it."""
    kind = _kind(at, step)
    settings = {key: value for key, value in step.items() if key != kind}
    unknown = sorted(set(settings) - KINDS[kind])
    if unknown:
        raise OptionError(f"step {at} ({kind}) has no setting {unknown[0]!r}", hint=SEE)
    value = step[kind]
    if kind in UNNAMED:
        _check_lists(at, kind, settings)
    elif not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
        raise OptionError(
            f"step {at}: {kind} is {value!r:.80}, expected a text of {MAX_TEXT_CHARACTERS} at most", hint=SEE
        )
    _check_settings(at, kind, settings)
    return StepSpec(kind, value, settings)


def _check_settings(at: int, kind: str, settings: dict[str, Any]) -> None:
    """What stands beside the kind, but for lists. Raises OptionError."""
    if not isinstance(settings.get("family", ""), str):
        raise OptionError(f"step {at}: family must be a text", hint=SEE)
    groups = settings.get("groups", 1)
    if (
        not _is_number(groups, int)
        or not 0 < groups <= NUMBER_LIMIT
        or (kind == "groupnorm" and "groups" not in settings)
    ):
        raise OptionError(
            f"step {at} ({kind}) needs groups = an integer, found {settings.get('groups')!r:.80}", hint=SEE
        )
    epsilon = settings.get("epsilon", 1e-5)
    if not _is_number(epsilon, int | float) or not 0 <= epsilon < 1:
        raise OptionError(f"step {at}: epsilon is {epsilon!r:.80}, expected a small number", hint=SEE)


def _kind(at: int, step: Any) -> str:
    """The one key that says what the step is. Raises OptionError."""
    kinds = [kind for kind in KINDS if isinstance(step, dict) and kind in step]
    if len(kinds) != 1:
        shown = ", ".join(map(str, step)) if isinstance(step, dict) else repr(step)
        raise OptionError(f"step {at} ({shown[:80]}) must have one of: {', '.join(KINDS)}", hint=SEE)
    return kinds[0]


def _check_lists(at: int, kind: str, settings: dict[str, Any]) -> None:
    """The lists of an affine or select step; dropout has none."""
    number = int if kind == "select" else int | float
    for name in sorted(KINDS[kind] - {"of"}):
        if not _is_list(settings.get(name), number):
            raise OptionError(f"step {at} ({kind}) needs {name} = [numbers]", hint=SEE)
    if kind == "select":
        _check_columns(at, settings["inputs"], settings.get("of", max(1, max(settings["inputs"]) + 1)))


def _is_list(value: Any, kind: Any) -> bool:
    """Whether it is a list of numbers of that kind, none of them too large, not empty or too long."""
    if not isinstance(value, list) or not 0 < len(value) <= NUMBER_LIMIT:
        return False
    return all(_is_number(item, kind) and abs(item) < MAX_NUMBER_MAGNITUDE for item in value)


def _is_number(value: Any, kind: Any) -> bool:
    """Whether it is a number of that kind; TOML's true and false are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _check_columns(at: int, inputs: list[int], count: Any) -> None:
    """The columns of a select step, of which there are `count`, lie inside. Raises OptionError."""
    if not _is_number(count, int) or not 0 < count <= NUMBER_LIMIT:
        raise OptionError(f"step {at} (select) is of {count!r:.80} columns, expected 1 to {NUMBER_LIMIT}", hint=SEE)
    if not all(0 <= column < count for column in inputs):
        raise OptionError(f"step {at} (select) has a column outside 0 to {count - 1}", hint=SEE)
