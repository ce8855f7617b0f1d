"""From the tensors of one library to a `Kan`; one file each, found by its name.

A reader module has `FAMILY` and one of two forms:

* layer by layer: `KEYS`, the tensors of a layer, and `layer(part, options) -> Layer`;
  `fits(part) -> bool` where shapes have to tell it from another library. Finding the
  layers, their order and what stands between them is common to all (`stack.py`).
* whole: `matches(checkpoint) -> str` (why it fits, or empty) and
  `read(checkpoint, options) -> Kan`.

A module of a library with many kinds of layers has `FAMILIES` instead, objects with all
that. Adding a library is adding a file.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from kanexport import order, refused, stack, unary
from kanexport.architecture import StepSpec
from kanexport.bases.activation import Activation
from kanexport.checkpoint import Checkpoint
from kanexport.errors import ExportError, FamilyError, InvalidKan, OptionError
from kanexport.ir import LAYER_LIMIT, BasisTerm, Kan, Layer
from kanexport.options import Options
from kanexport.parts import Keys, Part, Tensors, storage_dtype
from kanexport.steps import Affine, Elementwise, Select, Step

# The kinds of a step that name tensors.
WEIGHTED = ("layer", "linear", "layernorm", "batchnorm", "prelu")


class Reader(Protocol):
    """What turns a checkpoint into a network."""

    @property
    def FAMILY(self) -> str: ...

    def matches(self, checkpoint: Checkpoint) -> str:
        """Why the checkpoint is of this family, or an empty text."""

    def read(self, checkpoint: Checkpoint, options: Options) -> Kan:
        """Raises ExportError."""


@dataclass(frozen=True, slots=True)
class LayerReader:
    """The common part of all readers that work layer by layer."""

    module: Any

    @property
    def FAMILY(self) -> str:
        return str(self.module.FAMILY)

    @property
    def keys(self) -> Keys:
        return cast(Keys, self.module.KEYS)

    def fits(self, part: Part) -> bool:
        """Whether the tensors under a prefix have the shapes of this library's layer."""
        found = getattr(self.module, "fits", None)
        return bool(found(part)) if found else True

    def layer(self, part: Part, options: Options) -> Layer:
        """One layer. Raises InvalidKan or OptionError, naming the layer."""
        try:
            part.require(self.keys)
            return cast(Layer, self.module.layer(part, options))
        except (InvalidKan, OptionError) as error:
            where = part.prefix.removesuffix(".") or "(lone)"
            raise type(error)(f"layer {where}: {error.message}", hint=error.hint) from error

    def matches(self, checkpoint: Checkpoint) -> str:
        found = stack.prefixes(checkpoint.tensors, self.keys)
        if not found or not all(self.fits(Part(checkpoint.tensors, prefix)) for prefix in found):
            return ""
        return f"{', '.join(self.keys.required)} in {len(found)} layer{'s' * (len(found) > 1)}"

    def read(self, checkpoint: Checkpoint, options: Options) -> Kan:
        """The layers in order, with the modules between them that the file tells of."""
        tensors, root = checkpoint.tensors, options.optional("prefix") or ""
        found = stack.prefixes(tensors, self.keys, root)
        if not found:
            raise InvalidKan(
                f"no {self.FAMILY} layer ({', '.join(self.keys.required)}) is there"
                + (f" under the prefix {root[:80]!r}" if root else "")
            )
        if len(found) > LAYER_LIMIT:
            raise InvalidKan(f"there are {len(found)} {self.FAMILY} layers, more than {LAYER_LIMIT}")
        layers = {prefix: self.layer(Part(tensors, prefix), options) for prefix in found}
        between = stack.between(tensors, self.keys, found, root)
        names = order.arrange({p: (layer.sources, layer.destinations) for p, layer in layers.items()}, between)
        kinds = {other.prefix: other for other in between}
        if between or not order.counted(found):
            options.assumed["architecture"] = " -> ".join(
                name.removesuffix(".") + (f" ({kinds[name].kind})" if name in kinds else "") for name in names
            )
        items: list[Layer | Step] = [
            layers[name]
            if name in layers
            else stack.norm(Part(tensors, name), options, kinds[name].kind, kinds[name].width)
            for name in names
        ]
        own = [tensors[key] for prefix in found for name in self.keys.names() if (key := prefix + name) in tensors]
        first = order.starts_late(names, root)
        notes = (f"the numbers of the modules start at {first}: what stood before has no weights, and is left out",)
        return stack.chain(items, storage_dtype(own), notes if first else ())


def readers() -> dict[str, Reader]:
    """All readers of this folder by family name."""
    modules = [cast(Any, importlib.import_module(f"{__name__}.{m.name}")) for m in pkgutil.iter_modules(__path__)]
    members = [member for module in modules for member in getattr(module, "FAMILIES", (module,))]
    found = [member if hasattr(member, "read") else LayerReader(member) for member in members]
    return {str(reader.FAMILY): cast(Reader, reader) for reader in found}


def layer_readers() -> dict[str, LayerReader]:
    """Those that read layer by layer."""
    return {name: reader for name, reader in readers().items() if isinstance(reader, LayerReader)}


def detect(checkpoint: Checkpoint, family: str | None) -> tuple[Reader, str]:
    """The reader for a checkpoint and why. Raises FamilyError with the candidates."""
    known = readers()
    if family is not None:
        if family not in known:
            raise FamilyError(f"unknown family {family[:80]!r}", hint="known: " + ", ".join(known))
        return known[family], "given with --family"
    reasons = {name: reader.matches(checkpoint) for name, reader in known.items()}
    fitting = [name for name, reason in reasons.items() if reason]
    if len(fitting) == 1:
        return known[fitting[0]], reasons[fitting[0]]
    if fitting:
        why = " and ".join(f"{name} ({reasons[name]})" for name in fitting)
        raise FamilyError(f"the tensors fit {why}", hint=f"say which: --family {' | '.join(fitting)}")
    keys = ", ".join(f"{key} {value.shape}" for key, value in list(checkpoint.tensors.items())[:5])
    raise FamilyError(
        f"{checkpoint.path}: "
        + (refused.reason(checkpoint.tensors) or f"no known KAN library writes these tensors: {keys}"),
        hint=f"families that are read: {', '.join(known)}",
    )


def detect_layer(tensors: Tensors, prefix: str) -> LayerReader:
    """The reader for one layer. Raises FamilyError with what was found."""
    part = Part(tensors, prefix)
    fitting = [
        reader
        for reader in layer_readers().values()
        if prefix in stack.prefixes(tensors, reader.keys, prefix) and reader.fits(part)
    ]
    if len(fitting) == 1:
        return fitting[0]
    names = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]
    what = f"fit {' and '.join(r.FAMILY for r in fitting)}" if fitting else "fit no known KAN layer"
    raise FamilyError(f"the tensors under {prefix!r} ({', '.join(names[:6]) or 'none'}) {what}")


def read(reader: Reader, checkpoint: Checkpoint, options: Options) -> Kan:
    """`reader.read`, with the file named in every error."""
    options.beside = checkpoint.beside
    try:
        with _quiet():
            return reader.read(checkpoint, options)
    except ExportError as error:
        if str(checkpoint.path) in error.message:
            raise
        raise type(error)(f"{checkpoint.path}: {error.message}", hint=error.hint) from error


def assemble(checkpoint: Checkpoint, steps: Sequence[StepSpec], options: Options) -> tuple[Kan, str]:
    """A network from the user's own list of steps, and its families. Tensors that no step
    names are noted. Raises ExportError."""
    options.beside = checkpoint.beside
    made: list[_Item] = []
    for at, spec in enumerate(steps, start=1):
        try:
            with _quiet():
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
        layer = dataclasses.replace(linear(part), name=name)
        return _Item(layer, layer.sources, used)
    if "epsilon" in spec.settings:
        options = Options({f"{spec.kind}_eps": repr(spec.settings["epsilon"])})
    shape = part.shape("weight" if part.has("weight") else "running_var")
    width = shape[0] if len(shape) == 1 else 0
    step = stack.norm(part, options, spec.kind, width)
    return _Item(step, None if spec.kind == "prelu" and width == 1 else width, used)


def _quiet() -> np.errstate:
    """What is not finite is refused by name when a layer is made; numpy need not warn before."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def linear(part: Part) -> Layer:
    """torch.nn.Linear: a KAN layer whose edges are straight lines. Raises InvalidKan."""
    weight = part.tensor("weight", None, None)
    m, n = weight.shape
    return Layer(
        terms=(BasisTerm(Activation(unary.activation("identity")), weight.T[:, :, None]),),
        mask=np.ones((n, m)),
        bias=part.tensor("bias", m) if part.has("bias") else np.zeros(m),
        spread=np.zeros((n, m), dtype=bool),
    )


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
