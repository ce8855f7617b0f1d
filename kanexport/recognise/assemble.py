"""A network from the user's own list of steps (`--architecture`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.errors import ExportError, FamilyError, InvalidKan
from kanexport.files.checkpoint import Checkpoint
from kanexport.form.ir import Kan, Layer
from kanexport.form.steps import Affine, Elementwise, Select, Step
from kanexport.functions import unary
from kanexport.layers import stack
from kanexport.layers.linear import linear_layer
from kanexport.layers.parts import Part, Tensors, storage_dtype
from kanexport.options import Options
from kanexport.recognise.detect import detect_layer
from kanexport.recognise.registry import LayerReader, layer_readers, quiet
from kanexport.recognise.steplist import StepSpec

# The kinds of a step that name tensors.
WEIGHTED = ("layer", "linear", "layernorm", "batchnorm", "prelu")


def assemble(checkpoint: Checkpoint, steps: Sequence[StepSpec], options: Options) -> tuple[Kan, str]:
    """A network from the user's own list of steps, and its families. Tensors that no step
    names are noted. Raises ExportError."""
    options.beside = checkpoint.beside
    made: list[_Item] = []
    for at, spec in enumerate(steps, start=1):
        try:
            with quiet():
                made.append(_item(checkpoint, spec, options))
        except ExportError as error:
            raise type(error)(f"step {at} ({spec.kind}): {error.message}", hint=error.hint) from error
    tensors = checkpoint.tensors
    used = {key for item in made for key in item.used}
    left = [key for key in tensors if key not in used]
    notes = (
        f"{len(left)} tensors that no step names are not part of the export, such as "
        f"{', '.join(f'{key} {tensors[key].shape}' for key in left[:3])}",
    )
    width = next((item.takes for item in made if item.takes is not None), None)
    kan = stack.chain(
        [item.made for item in made if item.made is not None],
        storage_dtype([tensors[key] for key in used]),
        notes if left else (),
        n_inputs=width,
    )
    return kan, "+".join(dict.fromkeys(item.family for item in made if item.family)) or "linear"


def holds(checkpoint: Checkpoint, steps: Sequence[StepSpec]) -> bool:
    """Whether the checkpoint has tensors under every key that the steps name."""
    named = [_prefix(spec) for spec in steps if spec.kind in WEIGHTED]
    return all(any(key.startswith(prefix) for key in checkpoint.tensors) for prefix in named)


@dataclass(frozen=True, slots=True)
class _Item:
    """What one entry of a step list became. `takes`: its width, where it is fixed."""

    made: Layer | Step | None
    takes: int | None = None
    used: tuple[str, ...] = ()
    family: str = ""


def _item(checkpoint: Checkpoint, spec: StepSpec, options: Options) -> _Item:
    settings = spec.settings
    if spec.kind in WEIGHTED:
        return _weighted(Part(checkpoint.tensors, _prefix(spec)), spec, options)
    if spec.kind == "function":
        return _Item(Elementwise(unary.activation(spec.value)))
    if spec.kind == "affine":
        scale, bias = (np.array(settings[name], dtype=np.float64) for name in ("scale", "bias"))
        return _Item(Affine(scale, bias), len(scale))
    if spec.kind == "select":
        return _Item(Select(tuple(settings["inputs"])), settings.get("of", max(settings["inputs"]) + 1))
    return _Item(None)  # dropout: nothing at inference


def _weighted(part: Part, spec: StepSpec, options: Options) -> _Item:
    """The layer, or the step with weights, under a prefix."""
    tensors, name = part.tensors, part.prefix.removesuffix(".")
    if not any(key.startswith(part.prefix) for key in tensors):
        raise InvalidKan(f"no tensor's name starts with {part.prefix!r}", hint=f"keys: {', '.join(list(tensors)[:8])}")
    if spec.kind == "layer":
        reader = _layer_reader(spec, tensors)
        layer, names, family = reader.layer(part, options), reader.keys.names(), reader.FAMILY
        used = tuple(part.prefix + key for key in names if part.has(key))
        return _Item(dataclasses.replace(layer, name=name), layer.sources, used, family)
    used = tuple(part.prefix + key for key in (*stack.BATCH_NORM, stack.COUNTER) if part.has(key))
    if spec.kind == "linear":
        layer = dataclasses.replace(linear_layer(part), name=name)
        return _Item(layer, layer.sources, used)
    if "epsilon" in spec.settings:
        options = Options({f"{spec.kind}_eps": repr(spec.settings["epsilon"])})
    shape = part.shape("weight" if part.has("weight") else "running_var")
    width = shape[0] if len(shape) == 1 else 0
    step = stack.norm(part, options, spec.kind, width)
    return _Item(step, None if spec.kind == "prelu" and width == 1 else width, used)


def _prefix(spec: StepSpec) -> str:
    return f"{spec.value}." if spec.value else ""


def _layer_reader(spec: StepSpec, tensors: Tensors) -> LayerReader:
    family = spec.settings.get("family")
    if family is None:
        return detect_layer(tensors, _prefix(spec))
    known = layer_readers()
    if family not in known:
        raise FamilyError(f"family {family[:80]!r} is not read layer by layer", hint="known: " + ", ".join(known))
    return known[family]
