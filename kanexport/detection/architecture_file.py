"""Architecture file: the steps of a network, for a state dict that does not show their order.

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

import dataclasses
import functools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kanexport.detection.detect import chosen, detect_layer
from kanexport.detection.registry import LayerReader, layer_readers, without_warnings
from kanexport.errors import ExportError, FamilyError, InvalidKan, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import Kan, Layer
from kanexport.ir.steps import Affine, Select, Step
from kanexport.options import KnownFacts, Options
from kanexport.readers.common import chain, module_kinds
from kanexport.readers.common.layer_tensors import Part, Tensors, linear_layer, storage_dtype
from kanexport.shared.cli.suggest import advice

# The settings that a step may have next to its kind.
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
MAX_FILE_BYTES = 2**20  # a step is a line or two; only long affine steps need more than a few thousand
STEP_LIMIT = 10_000  # a KAN has at most 256 layers, each with a few steps
NUMBER_LIMIT = 100_000  # in one list: as many nodes as a model may have inputs
MAX_TEXT_CHARACTERS = 500  # of a key prefix or name, as long as a tensor's may be
MAX_NUMBER_MAGNITUDE = 1e30  # float32 holds it
DOT_LIMIT = 64  # in one key; tomllib takes quadratic time over them
SEE = "correct the architecture file; docs/reference/architecture-file.md describes its format"
step_malformed = functools.partial(OptionError, code="step-malformed", hint=SEE)
file_malformed = functools.partial(OptionError, code="architecture-file-malformed", hint=SEE)


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step of the architecture file: its kind, its key prefix or name, and its settings."""

    kind: str
    value: Any
    settings: dict[str, Any]


def load(path: Path) -> tuple[StepSpec, ...]:
    """Read an architecture file. Raises OptionError, which names the step and the error."""
    try:
        document = tomllib.loads(_text(path))
    except OSError as error:
        raise OptionError(
            f"{path} cannot be read: {error.strerror}",
            code="architecture-file-unreadable",
            hint="check the path and the permissions of the file",
        ) from error
    except (ValueError, RecursionError) as error:  # no text, no TOML, or a number of thousands of digits
        raise file_malformed(f"{path} is not valid TOML: {str(error)[:200]}") from error
    steps = document.pop("step", None)
    if document or not isinstance(steps, list) or not 1 <= len(steps) <= STEP_LIMIT:
        raise file_malformed(f"{path}: expected a list of 1 to {STEP_LIMIT} [[step]] tables and no other key")
    try:
        return tuple(_step(at, step) for at, step in enumerate(steps, start=1))
    except OptionError as error:
        raise OptionError(f"{path}: {error.message}", code=error.code, hint=error.hint) from error


def _text(path: Path) -> str:
    """The text of the file, if its size and structure keep TOML's parser fast."""
    if not path.is_file():
        raise OptionError(
            f"{path} is not a file", code="architecture-file-unreadable", hint="pass a TOML file with --architecture"
        )
    if path.stat().st_size > MAX_FILE_BYTES:
        raise file_malformed(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    text = path.read_text(encoding="utf-8")
    keys = re.split(r"[^\w.\"'-]+", text.replace(" ", "").replace("\t", ""))
    if any(key.count(".") > DOT_LIMIT for key in keys):
        raise file_malformed(f"{path} has a key of more than {DOT_LIMIT} parts")
    return text


def _kind(at: int, step: Any) -> str:
    """The key that gives the kind of the step. Raises OptionError if there is not exactly one."""
    kinds = [kind for kind in KINDS if isinstance(step, dict) and kind in step]
    if len(kinds) != 1:
        shown = ", ".join(map(str, step)) if isinstance(step, dict) else repr(step)
        raise step_malformed(f"step {at} ({shown[:80]}): expected exactly one of {', '.join(KINDS)}")
    return kinds[0]


# radon: the faults of a step.
def _step(at: int, step: Any) -> StepSpec:
    """Step number `at` of the document, checked. Raises OptionError, which names the step."""
    kind = _kind(at, step)
    value = step[kind]
    settings = {key: item for key, item in step.items() if key != kind}
    unknown = sorted(set(settings) - KINDS[kind])
    if unknown:
        raise step_malformed(f"step {at} ({kind}): unknown setting {unknown[0]!r}")
    if kind not in UNNAMED and (not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS):
        raise step_malformed(
            f"step {at}: {kind} is {value!r:.80}, expected a text of at most {MAX_TEXT_CHARACTERS} characters"
        )
    for name in sorted(KINDS[kind] - {"of"}) if kind in UNNAMED else ():
        numbers, number = settings.get(name), int if kind == "select" else int | float
        known = numbers if isinstance(numbers, list) and len(numbers) <= NUMBER_LIMIT else []
        if not known or not all(_is_number(item, number) and abs(item) < MAX_NUMBER_MAGNITUDE for item in known):
            raise step_malformed(f"step {at} ({kind}): {name} is not a list of numbers")
    if kind == "select":
        count = settings.get("of", max(1, max(settings["inputs"]) + 1))
        if not _is_number(count, int) or not 0 < count <= NUMBER_LIMIT:
            raise step_malformed(f"step {at} (select): of is {count!r:.80}, expected 1 to {NUMBER_LIMIT}")
        if not all(0 <= column < count for column in settings["inputs"]):
            raise step_malformed(f"step {at} (select): expected columns from 0 to {count - 1}")
    if not isinstance(settings.get("family", ""), str):
        raise step_malformed(f"step {at}: family is not a text")
    groups = settings.get("groups", 0 if kind == "groupnorm" else 1)
    if not _is_number(groups, int) or not 0 < groups <= NUMBER_LIMIT:
        raise step_malformed(f"step {at} ({kind}): groups is {settings.get('groups')!r:.80}, expected an integer")
    epsilon = settings.get("epsilon", 1e-5)
    if not _is_number(epsilon, int | float) or not 0 <= epsilon < 1:
        raise step_malformed(f"step {at}: epsilon is {epsilon!r:.80}, expected a number from 0 to 1")
    return StepSpec(kind, value, settings)


def _is_number(value: Any, kind: Any) -> bool:
    """Whether it is a number of that kind. true and false of TOML are not numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


# The kinds of a step that name tensors.
NAMED = KINDS.keys() - {"function", *UNNAMED}
# The tensors that a Linear may have.
LINEAR_KEYS = ("weight", "bias")


# radon: the steps, then the tensors that none of them names.
def assemble(checkpoint: Checkpoint, steps: Sequence[StepSpec], options: Options) -> tuple[Kan, str]:
    """A network from the steps of an architecture file, and its families, such as "chebykan+fastkan". A note lists
    tensors that no step names. Raises ExportError, which names the step."""
    options.mixed |= sum(spec.kind == "layer" for spec in steps) > 1
    checkpoint = chosen(checkpoint, options)
    built: list[_Built] = []
    for at, spec in enumerate(steps, start=1):
        try:
            with without_warnings():
                built.append(_build(checkpoint, spec, _width(built), options))
        except ExportError as error:
            raise error.at(f"step {at} ({spec.kind})") from error
    tensors = checkpoint.tensors
    used = {key for item in built for key in item.keys}
    unused = [f"{key} {value.shape}" for key, value in tensors.items() if key not in used]
    note = f"{len(unused)} tensors are not in the architecture file and not exported, such as {', '.join(unused[:3])}"
    kan = chain.chain(
        [item.link for item in built if item.link is not None],
        storage_dtype([tensors[key] for key in used]),
        (note,) if unused else (),
        n_inputs=next((item.width for item in built if item.width is not None), None),
    )
    return kan, "+".join(dict.fromkeys(item.family for item in built if item.family)) or "linear"


def _width(built: Sequence[_Built]) -> int:
    """The number of nodes after the steps so far; 0 if it is not known."""
    for item in reversed(built):
        if isinstance(item.link, Layer):
            return item.link.destinations
        if isinstance(item.link, Select):
            return len(item.link.indices)
        if item.width is not None:
            return item.width
    return 0


def matches(checkpoint: Checkpoint, steps: Sequence[StepSpec]) -> bool:
    """Whether the checkpoint has tensors under every key that the steps name."""
    prefixes = [_prefix(spec) for spec in steps if spec.kind in NAMED]
    return all(any(key.startswith(prefix) for key in checkpoint.tensors) for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class _Built:
    """Result of one step.

    link    link of the chain; None if the step does nothing at inference
    width   number of nodes that it takes, if that is fixed
    keys    keys of its tensors
    family  its family, if it is a KAN layer
    """

    link: Layer | Step | None
    width: int | None = None
    keys: tuple[str, ...] = ()
    family: str = ""


def _build(checkpoint: Checkpoint, spec: StepSpec, width: int, options: Options) -> _Built:
    """One step, with `width` nodes as its input."""
    settings = spec.settings
    if spec.kind in NAMED:
        return _weighted(Part(checkpoint.tensors, _prefix(spec), checkpoint.beside), spec, width, options)
    if spec.kind == "function":
        if spec.value == "layernorm" and not width:
            raise OptionError(
                "a LayerNorm without weights follows no step that gives the number of nodes",
                code="step-width-unknown",
                hint="put a layer before it",
            )
        return _Built(chain.without_tensors(spec.value, width, options))
    if spec.kind == "affine":
        scale, bias = (np.array(settings[name], dtype=np.float64) for name in ("scale", "bias"))
        return _Built(Affine(scale, bias), len(scale))
    if spec.kind == "select":
        return _Built(Select(tuple(settings["inputs"])), settings.get("of", max(settings["inputs"]) + 1))
    return _Built(None)  # dropout


# radon: one case for each kind of step.
def _weighted(part: Part, spec: StepSpec, width: int, options: Options) -> _Built:
    """A step with tensors under a prefix. Raises InvalidKan if there are none."""
    keys = list(part.tensors)
    if not any(key.startswith(part.prefix) for key in keys):
        raise InvalidKan(
            f"no tensor has a name that starts with {part.prefix!r}; found {', '.join(keys[:8])}",
            code="prefix-unknown",
            hint="correct the prefix of the step",
        )
    if spec.kind == "layer":
        reader = _layer_reader(spec, part.tensors)
        return _layer(part, reader.layer(part, options), reader.keys.names(), reader.FAMILY)
    if spec.kind == "linear":
        return _layer(part, linear_layer(part), LINEAR_KEYS)
    # A module that is not a KAN layer. A single value applies to any number of nodes.
    if "epsilon" in spec.settings:
        options = Options(KnownFacts({f"{spec.kind}_eps": repr(spec.settings["epsilon"])}))
    shapes = {key: value.shape for key, value in part.tensors.items() if key.startswith(part.prefix)}
    nodes = next((shape[0] for shape in shapes.values() if len(shape) == 1), 1)
    lone = nodes == 1 and len(shapes) == 1
    kind = f"{module_kinds.GROUPS}{spec.settings['groups']}" if spec.kind == "groupnorm" else spec.kind
    if kind == "scaling":
        kind = "affine" if len(shapes) > 1 else "scale"
    step = module_kinds.step(part, options, kind, (width or 1) if lone else nodes)
    return _Built(step, None if lone else nodes, tuple(shapes))


def _layer(part: Part, layer: Layer, names: Sequence[str], family: str = "") -> _Built:
    named = dataclasses.replace(layer, name=part.prefix.removesuffix("."))
    return _Built(named, layer.sources, tuple(part.prefix + name for name in names if part.has(name)), family)


def _prefix(spec: StepSpec) -> str:
    return f"{spec.value}." if spec.value else ""


def _layer_reader(spec: StepSpec, tensors: Tensors) -> LayerReader:
    family = spec.settings.get("family")
    if family is None:
        return detect_layer(tensors, _prefix(spec))
    known = layer_readers()
    if family not in known:
        raise FamilyError(
            f"library {family[:80]!r} has no reader for single layers",
            code="library-unknown",
            hint=advice(family, known, what="available"),
        )
    return known[family]
