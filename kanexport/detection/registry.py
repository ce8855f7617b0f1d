"""The registry of readers by family name, and the common part of readers that work layer by layer."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from kanexport.errors import FamilyError, InvalidKan, OptionError, network_too_large
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import LAYER_LIMIT, Kan, Layer
from kanexport.options import Options
from kanexport.readers.common import chain, module_kinds, order
from kanexport.readers.common.chain import Link
from kanexport.readers.common.layer_tensors import Keys, Part, storage_dtype
from kanexport.shared.cli.suggest import advice

READERS = "kanexport.readers"


class Reader(Protocol):
    """Interface of a reader, which turns a checkpoint into a network."""

    @property
    def FAMILY(self) -> str:
        """The name of the family, as in --family and the manifest."""

    def matches(self, checkpoint: Checkpoint) -> str:
        """The reason why the checkpoint belongs to this family, or an empty text."""

    def read(self, checkpoint: Checkpoint, options: Options) -> Kan:
        """Raises ExportError."""


@dataclass(frozen=True, slots=True)
class LayerReader:
    """The common part of all readers that work layer by layer."""

    module: Any

    @property
    def FAMILY(self) -> str:
        """The name of the family, as in --family and the manifest."""
        return str(self.module.FAMILY)

    @property
    def keys(self) -> Keys:
        """The names of the tensors of a layer in this library."""
        return cast(Keys, self.module.KEYS)

    def fits(self, part: Part) -> bool:
        """Whether the tensors under a prefix have the shapes of this library's layer."""
        fits = getattr(self.module, "fits", None)
        return bool(fits(part)) if fits else True

    def layer(self, part: Part, options: Options) -> Layer:
        """One layer. Raises InvalidKan or OptionError, which names the layer."""
        try:
            part.require(self.keys)
            return cast(Layer, self.module.layer(part, options))
        except (InvalidKan, OptionError) as error:
            where = part.prefix.removesuffix(".") or "(single)"
            raise error.at(f"layer {where}") from error

    def matches(self, checkpoint: Checkpoint) -> str:
        """The reason why the checkpoint belongs to this family, or an empty text."""
        prefixes = chain.prefixes(checkpoint.tensors, self.keys)
        if not prefixes or not all(self.fits(Part(checkpoint.tensors, prefix)) for prefix in prefixes):
            return ""
        return f"{', '.join(self.keys.required)} in {len(prefixes)} layer{'s' * (len(prefixes) > 1)}"

    # radon: the steps of reading, in their order.
    def read(self, checkpoint: Checkpoint, options: Options) -> Kan:
        """The layers in order, with the modules between them that the file shows. Raises ExportError."""
        options.single = len(self.keys.required) == 1
        tensors, root = checkpoint.tensors, options.optional("prefix") or ""
        prefixes = chain.prefixes(tensors, self.keys, root)
        if not prefixes:
            raise InvalidKan(
                f"no {self.FAMILY} layer found ({', '.join(self.keys.required)})"
                + (f" under the prefix {root[:80]!r}" if root else ""),
                code="layers-not-found",
                hint="check the library that --family or the architecture file names",
            )
        if len(prefixes) > LAYER_LIMIT:
            raise network_too_large(f"found {len(prefixes)} {self.FAMILY} layers, expected at most {LAYER_LIMIT}")
        modules = module_kinds.other_modules(tensors, self.keys, prefixes, root)
        layers = {prefix: self.layer(Part(tensors, prefix, checkpoint.beside), options) for prefix in prefixes}
        others = {other.prefix: other for other in module_kinds.decide_kinds(modules, prefixes, options)}
        sides = {prefix: (layer.sources, layer.destinations) for prefix, layer in layers.items()}
        names = order.arrange(sides, list(others.values()), options)
        links = []
        for name, width in zip(names, order.input_widths(names, sides), strict=True):
            if name in layers:
                links.append(Link(name, "", layers[name]))
                continue
            other = others[name]
            nodes = width if other.single else other.width
            links.append(Link(name, other.kind, module_kinds.step(Part(tensors, name), options, other.kind, nodes)))
        keys = [prefix + name for prefix in prefixes for name in self.keys.names()]
        first = order.starts_late(names, root)
        note = f"the numbers of the modules start at {first}: modules before it have no weights and are not exported"
        return chain.chain(
            chain.compose(links, order.numbering_gaps(names, prefixes), options),
            storage_dtype([tensors[key] for key in keys if key in tensors]),
            (note,) if first else (),
        )


@dataclass(frozen=True, slots=True)
class ShapedReader:
    """The reader for layers with names that do not identify a library: shapes decide the roles of the tensors."""

    module: Any

    @property
    def FAMILY(self) -> str:
        """The name of the family, as in --family and the manifest."""
        return str(self.module.FAMILY)

    def matches(self, checkpoint: Checkpoint) -> str:
        """The reason why the tensors may be those of a KAN, or an empty text."""
        return str(self.module.matches(checkpoint))

    def read(self, checkpoint: Checkpoint, options: Options) -> Kan:
        """See `LayerReader.read`. Raises ExportError."""
        return LayerReader(self.module.kind(checkpoint, options)).read(checkpoint, options)


def modules() -> list[Any]:
    """The reader modules, one per library."""
    folder = importlib.import_module(READERS).__path__
    return [importlib.import_module(f"{READERS}.{m.name}") for m in pkgutil.iter_modules(folder) if not m.ispkg]


def readers() -> dict[str, Reader]:
    """All readers by family name."""
    members = [member for module in modules() for member in getattr(module, "FAMILIES", (module,))]
    wrapped: list[Reader] = []
    for member in members:
        if hasattr(member, "kind"):
            wrapped.append(ShapedReader(member))
        else:
            wrapped.append(member if hasattr(member, "read") else LayerReader(member))
    return {str(reader.FAMILY): reader for reader in wrapped}


def named(family: str) -> Reader:
    """The reader of a library. Raises FamilyError for an unknown name."""
    known = readers()
    if family not in known:
        raise FamilyError(
            f"unknown library {family[:80]!r}", code="library-unknown", hint=advice(family, known, what="available")
        )
    return known[family]


def layer_readers() -> dict[str, LayerReader]:
    """The readers that work layer by layer."""
    return {name: reader for name, reader in readers().items() if isinstance(reader, LayerReader)}


def may_fit(reader: Reader, checkpoint: Checkpoint) -> bool:
    """Whether a key of the checkpoint ends with the `MARK` of a whole network's reader, without which `matches` returns
    an empty text. True for a reader without a mark."""
    mark = getattr(reader, "MARK", "")
    return not mark or any(key.endswith(mark) for key in (*checkpoint.tensors, *checkpoint.beside))


def ambiguous(reader: Reader) -> bool:
    """Whether other libraries use the same tensor names as the reader, so that the names do not identify the
    library."""
    return bool(getattr(reader.module if isinstance(reader, LayerReader) else reader, "AMBIGUOUS", False))


def single(reader: Reader) -> bool:
    """Whether the name of a single tensor identifies the library of the reader, and the reader is not `ambiguous`."""
    return isinstance(reader, LayerReader) and len(reader.keys.required) == 1 and not ambiguous(reader)


def by_shape(reader: Reader) -> bool:
    """Whether the reader uses only shapes, for tensors with names that do not identify a library."""
    return isinstance(reader, ShapedReader)


def without_warnings() -> np.errstate:
    """A context without warnings of numpy: the constructor of a layer rejects values that are not finite."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")
