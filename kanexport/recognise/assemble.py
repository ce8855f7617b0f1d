"""A network from the user's own list of steps (`--architecture`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.errors import ExportError, FamilyError, InvalidKan, OptionError
from kanexport.files.checkpoint import Checkpoint
from kanexport.form.ir import Kan, Layer
from kanexport.form.steps import Affine, Select, Step
from kanexport.layers import flow, kinds, stack
from kanexport.layers.linear import linear_layer
from kanexport.layers.parts import Part, Tensors, storage_dtype
from kanexport.options import Options
from kanexport.recognise.detect import chosen, detect_layer
from kanexport.recognise.registry import LayerReader, layer_readers, quiet
from kanexport.recognise.steplist import StepSpec
from kanexport.shared.nearest import advice

# The kinds of a step that name tensors.
NAMED = ("layer", "linear", "layernorm", "groupnorm", "rmsnorm", "batchnorm", "prelu", "swish", "scaling")
# The tensors that a Linear may have.
LINEAR_KEYS = ("weight", "bias")


def assemble(checkpoint: Checkpoint, steps: Sequence[StepSpec], options: Options) -> tuple[Kan, str]:
    """A network from the user's own list of steps, and its families, such as "chebykan+fastkan".
    Tensors that no step names are noted. Raises ExportError, naming the step."""
    options.beside = checkpoint.beside
    options.mixed |= sum(spec.kind == "layer" for spec in steps) > 1
    checkpoint = chosen(checkpoint, options)
    built: list[_Built] = []
    for at, spec in enumerate(steps, start=1):
        built.append(_build_numbered(at, checkpoint, spec, _width(built), options))
    tensors = checkpoint.tensors
    used = {key for item in built for key in item.keys}
    kan = stack.chain(
        [item.link for item in built if item.link is not None],
        storage_dtype([tensors[key] for key in used]),
        _notes(tensors, used),
        n_inputs=next((item.width for item in built if item.width is not None), None),
    )
    return kan, _families(built)


def _width(built: Sequence[_Built]) -> int:
    """The nodes that the steps so far give; 0 where none says."""
    for item in reversed(built):
        if isinstance(item.link, Layer):
            return item.link.destinations
        if isinstance(item.link, Select):
            return len(item.link.indices)
        if item.width is not None:
            return item.width
    return 0


def _families(built: Sequence[_Built]) -> str:
    """Every family once, in the order of the steps; "linear" where no step is a KAN layer."""
    return "+".join(dict.fromkeys(item.family for item in built if item.family)) or "linear"


def _notes(tensors: Tensors, used: set[str]) -> tuple[str, ...]:
    """What the user should know of the tensors that no step names."""
    unused = [f"{key} {value.shape}" for key, value in tensors.items() if key not in used]
    if not unused:
        return ()
    return (f"{len(unused)} tensors that no step names are not part of the export, such as {', '.join(unused[:3])}",)


def holds(checkpoint: Checkpoint, steps: Sequence[StepSpec]) -> bool:
    """Whether the checkpoint has tensors under every key that the steps name."""
    prefixes = [_prefix(spec) for spec in steps if spec.kind in NAMED]
    return all(any(key.startswith(prefix) for key in checkpoint.tensors) for prefix in prefixes)


@dataclass(frozen=True, slots=True)
class _Built:
    """What one step of the list became: a link of the chain (None: it does nothing at
    inference), the number of nodes it takes where that is fixed, the keys of its tensors,
    and its family if it is a KAN layer."""

    link: Layer | Step | None
    width: int | None = None
    keys: tuple[str, ...] = ()
    family: str = ""


def _build_numbered(at: int, checkpoint: Checkpoint, spec: StepSpec, width: int, options: Options) -> _Built:
    """Step number `at`, which is given `width` nodes and which every error names."""
    try:
        with quiet():
            return _build(checkpoint, spec, width, options)
    except ExportError as error:
        raise error.at(f"step {at} ({spec.kind})") from error


def _build(checkpoint: Checkpoint, spec: StepSpec, width: int, options: Options) -> _Built:
    settings = spec.settings
    if spec.kind in NAMED:
        return _weighted(Part(checkpoint.tensors, _prefix(spec)), spec, width, options)
    if spec.kind == "function":
        return _function(spec.value, width, options)
    if spec.kind == "affine":
        scale, bias = (np.array(settings[name], dtype=np.float64) for name in ("scale", "bias"))
        return _Built(Affine(scale, bias), len(scale))
    if spec.kind == "select":
        return _Built(Select(tuple(settings["inputs"])), settings.get("of", max(settings["inputs"]) + 1))
    return _Built(None)  # dropout


def _function(name: str, width: int, options: Options) -> _Built:
    """A function without tensors. Raises OptionError for a LayerNorm of nobody knows how many nodes."""
    if name == "layernorm" and not width:
        raise OptionError("a LayerNorm without weights needs a step before it that tells the number of nodes")
    return _Built(flow.without_tensors(name, width, options))


def _weighted(part: Part, spec: StepSpec, width: int, options: Options) -> _Built:
    """A step whose tensors lie under a prefix. Raises InvalidKan where none do."""
    keys = list(part.tensors)
    if not any(key.startswith(part.prefix) for key in keys):
        raise InvalidKan(f"no tensor's name starts with {part.prefix!r}", hint=f"keys: {', '.join(keys[:8])}")
    if spec.kind == "layer":
        reader = _layer_reader(spec, part.tensors)
        return _layer(part, reader.layer(part, options), reader.keys.names(), reader.FAMILY)
    if spec.kind == "linear":
        return _layer(part, linear_layer(part), LINEAR_KEYS)
    return _module(part, spec, width, options)


def _layer(part: Part, layer: Layer, names: Sequence[str], family: str = "") -> _Built:
    named = dataclasses.replace(layer, name=part.prefix.removesuffix("."))
    return _Built(named, layer.sources, _keys(part, names), family)


def _module(part: Part, spec: StepSpec, width: int, options: Options) -> _Built:
    """A module that is no layer, where it is given `width` nodes. One number takes any number of nodes."""
    if "epsilon" in spec.settings:
        options = Options({f"{spec.kind}_eps": repr(spec.settings["epsilon"])})
    shapes = {key: value.shape for key, value in part.tensors.items() if key.startswith(part.prefix)}
    nodes = next((shape[0] for shape in shapes.values() if len(shape) == 1), 1)
    lone = nodes == 1 and len(shapes) == 1
    step = stack.norm(part, options, _kind(spec, len(shapes)), (width or 1) if lone else nodes)
    return _Built(step, None if lone else nodes, tuple(shapes))


def _kind(spec: StepSpec, tensors: int) -> str:
    """A step's kind as `kinds.STEPS` has it."""
    if spec.kind == "groupnorm":
        return f"{kinds.GROUPS}{spec.settings['groups']}"
    return spec.kind if spec.kind != "scaling" else "affine" if tensors > 1 else "scale"


def _keys(part: Part, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.prefix + name for name in names if part.has(name))


def _prefix(spec: StepSpec) -> str:
    return f"{spec.value}." if spec.value else ""


def _layer_reader(spec: StepSpec, tensors: Tensors) -> LayerReader:
    family = spec.settings.get("family")
    if family is None:
        return detect_layer(tensors, _prefix(spec))
    known = layer_readers()
    if family not in known:
        raise FamilyError(f"family {family[:80]!r} is not read layer by layer", hint=advice(family, known))
    return known[family]
