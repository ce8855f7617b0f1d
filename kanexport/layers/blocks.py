"""Layers in blocks of their own, such as X-KANeRF's `layers.0.layer` and `layers.0.layer_norm`: a norm beside a layer
in its block stands right after it, or right before it, as the widths tell."""

from __future__ import annotations

from collections.abc import Sequence

from kanexport.errors import FamilyError
from kanexport.layers import order
from kanexport.layers.order import GIVE_ARCHITECTURE, OtherModule, Sides, unwrapped
from kanexport.options import Options

BLOCK = "block"  # the option: where the modules beside a layer stand in its block, if widths do not tell
AFTER, BEFORE = "after", "before"
WORDS = "modules beside a layer in its block stand after the layer, or before it"


def arrange(layers: Sides, others: Sequence[OtherModule], options: Options) -> list[str]:
    """As `order.arrange`, also for modules in one block with a layer. Raises FamilyError."""
    places = {unwrapped(prefix): prefix for prefix in layers if unwrapped(prefix) != prefix}
    homes = {other.prefix: places.get(_parent(other.prefix), "") for other in others}
    mates = [other for other in others if homes[other.prefix]]
    found = order.arrange(layers, [other for other in others if not homes[other.prefix]], options)
    sides = _sides(mates, homes, layers, options)
    for other in mates:
        at = found.index(homes[other.prefix])
        found.insert(at + (sides[other.prefix] == AFTER), other.prefix)
    return found


def _parent(prefix: str) -> str:
    """Of "layers.0.layer_norm." the block "layers.0."."""
    return prefix[: prefix[:-1].rfind(".") + 1]


def _sides(mates: Sequence[OtherModule], homes: dict[str, str], layers: Sides, options: Options) -> dict[str, str]:
    """On which side of its layer each stands: where it fits alone, or as the others do, or as the option says.
    Raises FamilyError where it fits nowhere, or two stand on one side."""
    fits = {other.prefix: _fitting(other, layers[homes[other.prefix]]) for other in mates}
    usual = _usual(list(fits.values()), options)
    chosen = {prefix: sides[0] if len(sides) == 1 else usual for prefix, sides in fits.items()}
    if len({(homes[prefix], side) for prefix, side in chosen.items()}) < len(mates):
        raise FamilyError(
            f"the file does not tell in which order {' and '.join(chosen)} stand beside their layers",
            hint=GIVE_ARCHITECTURE,
        )
    return chosen


def _usual(fits: Sequence[list[str]], options: Options) -> str:
    """The side of those that fit on both: the one of all others, or the option's."""
    told = {sides[0] for sides in fits if len(sides) == 1}
    undecided = any(len(sides) > 1 for sides in fits)
    if len(told) != 1 and undecided:
        return options.choice(BLOCK, (AFTER, BEFORE), AFTER, words=WORDS)
    return next(iter(told), AFTER)


def _fitting(other: OtherModule, sides: tuple[int, int]) -> list[str]:
    found = [side for side, width in zip((BEFORE, AFTER), sides, strict=True) if other.fits(width)]
    if not found:
        raise FamilyError(
            f"{other.prefix}* ({other.kind} of {other.width}) fits neither side of its layer, {sides[0]} to {sides[1]}",
            hint=GIVE_ARCHITECTURE,
        )
    return found
