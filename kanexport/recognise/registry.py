"""The readers by family name, each found as a file in `readers/`, and what those that work
layer by layer have in common."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from kanexport.errors import InvalidKan, OptionError
from kanexport.files.checkpoint import Checkpoint
from kanexport.form.ir import LAYER_LIMIT, Kan, Layer
from kanexport.form.steps import Step
from kanexport.layers import order, stack
from kanexport.layers.parts import Keys, Part, storage_dtype
from kanexport.options import Options

READERS = "kanexport.readers"


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
    """All readers by family name."""
    folder = importlib.import_module(READERS).__path__
    modules = [cast(Any, importlib.import_module(f"{READERS}.{m.name}")) for m in pkgutil.iter_modules(folder)]
    members = [member for module in modules for member in getattr(module, "FAMILIES", (module,))]
    found = [member if hasattr(member, "read") else LayerReader(member) for member in members]
    return {str(reader.FAMILY): cast(Reader, reader) for reader in found}


def layer_readers() -> dict[str, LayerReader]:
    """Those that read layer by layer."""
    return {name: reader for name, reader in readers().items() if isinstance(reader, LayerReader)}


def quiet() -> np.errstate:
    """What is not finite is refused by name when a layer is made; numpy need not warn before."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")
