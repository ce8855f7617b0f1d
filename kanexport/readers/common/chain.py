"""Assembly of a network from single layers: the layers of a file, the modules between them, and their chain.

Their order is in `readers/common/order.py`, what a module beside them is in `readers/common/module_kinds.py`, how the
nodes flow through them in `readers/common/dataflow.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kanexport.errors import USE_MODULE, FamilyError, InvalidKan
from kanexport.ir.model import Kan, Layer
from kanexport.ir.steps import Affine, Step
from kanexport.options import Options
from kanexport.readers.common import module_kinds, order
from kanexport.readers.common.layer_tensors import Keys, Part, Tensors, natural
from kanexport.readers.common.module_kinds import BATCH_NORM, COUNTER
from kanexport.readers.common.order import GIVE_ARCHITECTURE, OtherModule, Sides, unwrapped

__all__ = ["BATCH_NORM", "COUNTER", "LayerKind", "batch_norm", "chain", "norm", "other_modules", "prefixes"]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """A kind of layers that a reader module reads, one of several in its FAMILIES."""

    FAMILY: str
    KEYS: Keys
    layer: Callable[[Part, Options], Layer]
    fits: Callable[[Part], bool] | None = None  # only where shapes must tell


def prefixes(tensors: Tensors, keys: Keys, root: str = "") -> list[str]:
    """Prefixes under `root` with all required tensors, in natural order."""
    first = next(iter(keys.required))
    candidates = [key.removesuffix(first) for key in tensors if key.endswith(first) and key.startswith(root)]
    whole_names = [prefix for prefix in candidates if prefix == "" or prefix.endswith(".")]
    return sorted((prefix for prefix in whole_names if Part(tensors, prefix).matches(keys)), key=natural)


def other_modules(tensors: Tensors, keys: Keys, layers: Sequence[str], root: str = "") -> list[OtherModule]:
    """The modules next to the layers. `module_kinds.decide_kinds` decides the kind of ambiguous ones. Raises
    FamilyError for an unknown module."""
    own = {prefix + name for prefix in layers for name in keys.names()}
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, value in tensors.items():
        if key not in own and key.startswith(root):
            prefix, _, name = key.rpartition(".")
            groups.setdefault(prefix + "." if prefix else "", {})[name] = value.shape
    return [_recognise(prefix, names, len(layers)) for prefix, names in groups.items()]


def _recognise(prefix: str, shapes: dict[str, tuple[int, ...]], count: int) -> OtherModule:
    """The module with tensors of these shapes, by name, next to `count` layers. Raises FamilyError for an unknown
    module."""
    kind, width = module_kinds.proposed(shapes)
    if prefix and kind:
        return OtherModule(prefix, kind, width)
    name, shape = next(iter(shapes.items()))
    raise FamilyError(
        f"the file has {count} KAN layers and other modules, such as {prefix + name!r} {shape}",
        code="other-modules-in-file",
        hint=f"export the KAN by itself with --option prefix=KEY_PREFIX; or {GIVE_ARCHITECTURE}",
    )


def norm(part: Part, options: Options, kind: str, width: int) -> Step:
    """A module between layers as a step for `width` nodes; `kind` is one of `module_kinds.STEPS`.
    Raises InvalidKan or OptionError."""
    return module_kinds.step(part, options, kind, width)


def batch_norm(part: Part, options: Options, width: int) -> Affine:
    """The step of `module_kinds.batch_norm`, for readers of layers that end in one. Raises InvalidKan or
    OptionError."""
    return module_kinds.batch_norm(part, options, width)


def chain(
    items: Sequence[Layer | Step], dtype: str, notes: tuple[str, ...] = (), *, n_inputs: int | None = None
) -> Kan:
    """A network of layers and the steps between them, in order. Steps before the first layer belong to that layer,
    all others to the layer before them. `n_inputs`: the inputs, if a first step takes more than the first layer has
    sources. Raises InvalidKan."""
    layers: list[Layer] = []
    waiting: list[Step] = []
    for item in items:
        if isinstance(item, Layer):
            layers.append(dataclasses.replace(item, pre_steps=(*waiting, *item.pre_steps)))
            waiting = []
        elif layers:
            layers[-1] = dataclasses.replace(layers[-1], post_steps=(*layers[-1].post_steps, item))
        else:
            waiting.append(item)
    if not layers:
        raise InvalidKan("the network has no KAN layer", code="layers-not-found", hint=USE_MODULE)
    return Kan(n_inputs or layers[0].sources, tuple(layers), dtype, notes)


BLOCK = "block"  # the option: where the modules beside a layer stand in its block, if widths do not tell
AFTER, BEFORE = "after", "before"
WORDS = "a module in the block of a layer runs after the layer, or before it"


def arrange(layers: Sides, others: Sequence[OtherModule], options: Options) -> list[str]:
    """The order of `order.arrange`, also for modules in one block with a layer. Raises FamilyError."""
    places = {unwrapped(prefix): prefix for prefix in layers if unwrapped(prefix) != prefix}
    homes = {other.prefix: places.get(_parent(other.prefix), "") for other in others}
    mates = [other for other in others if homes[other.prefix]]
    ordered = order.arrange(layers, [other for other in others if not homes[other.prefix]], options)
    sides = _sides(mates, homes, layers, options)
    for other in mates:
        at = ordered.index(homes[other.prefix])
        ordered.insert(at + (sides[other.prefix] == AFTER), other.prefix)
    return ordered


def _parent(prefix: str) -> str:
    """The prefix of the block of a module, such as "layers.0." for "layers.0.layer_norm."."""
    return prefix[: prefix[:-1].rfind(".") + 1]


def _sides(mates: Sequence[OtherModule], homes: dict[str, str], layers: Sides, options: Options) -> dict[str, str]:
    """The side of its layer on which each module runs: the only one that fits, that of the others, or the one of the
    option. Raises FamilyError if no side fits, or if two modules are on one side."""
    fits = {other.prefix: _fitting(other, layers[homes[other.prefix]]) for other in mates}
    usual = _usual(list(fits.values()), options)
    chosen = {prefix: sides[0] if len(sides) == 1 else usual for prefix, sides in fits.items()}
    if len({(homes[prefix], side) for prefix, side in chosen.items()}) < len(mates):
        raise FamilyError(
            f"the file does not record the order of {' and '.join(chosen)} and their layers",
            code="order-not-recorded",
            hint=GIVE_ARCHITECTURE,
        )
    return chosen


def _usual(fits: Sequence[list[str]], options: Options) -> str:
    """The side of modules that fit on both: the one of all others, or the one of the option."""
    decided = {sides[0] for sides in fits if len(sides) == 1}
    undecided = any(len(sides) > 1 for sides in fits)
    if len(decided) != 1 and undecided:
        return options.choice(BLOCK, (AFTER, BEFORE), AFTER, words=WORDS)
    return next(iter(decided), AFTER)


def _fitting(other: OtherModule, sides: tuple[int, int]) -> list[str]:
    fitting = [side for side, width in zip((BEFORE, AFTER), sides, strict=True) if other.fits(width)]
    if not fitting:
        raise FamilyError(
            f"{other.prefix}* ({other.kind} of {other.width}) fits neither side of its layer, {sides[0]} to {sides[1]}",
            code="module-does-not-fit",
            hint=GIVE_ARCHITECTURE,
        )
    return fitting
