"""The order of the layers of a network and of the modules between them.

A state dict tells names and shapes, not the order of a forward pass. The reader uses facts
that follow from them (the numbers of a Sequential, a width that fits in one place only).
It records likely facts as assumed. It refuses the rest, and the user writes an
architecture file (`detection/architecture_file.py`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kanexport.errors import FamilyError, OpenQuestion
from kanexport.options import Options
from kanexport.readers.common.layer_tensors import natural

CHAIN_LIMIT = 6  # layers whose order is looked for: all orders of more would be too many
CHAINS = 24  # orders that are named, and tried if recorded outputs decide
GIVE_MODULE = "export the PyTorch module instead: --module PKG.MOD:FACTORY --checkpoint FILE"
GIVE_ARCHITECTURE = f"{GIVE_MODULE}; or pass an architecture file with --architecture layers.toml"

Sides = dict[str, tuple[int, int]]  # by name: a layer's sources and destinations


@dataclass(frozen=True, slots=True)
class OtherModule:
    """A module other than a KAN layer: its prefix, its kind, and its width."""

    prefix: str
    kind: str  # of `module_kinds.step`, or one of the questions of `module_kinds.QUESTIONS`
    width: int

    @property
    def name(self) -> str:
        """The prefix without the dot at its end."""
        return self.prefix.removesuffix(".")

    @property
    def single(self) -> bool:
        """Whether it has one number, which applies to any number of nodes."""
        return self.width == 1 and self.kind in ("prelu", "swish", "scale")

    def fits(self, width: int) -> bool:
        """Whether it accepts that many nodes."""
        return self.width == width or self.single


def must(options: Options, key: str, known: Iterable[str], what: str, hint: str) -> str:
    """The value of `options.must`, with additional advice in its error. Raises OpenQuestion and OptionError."""
    try:
        return options.must(key, known, what)
    except OpenQuestion as question:
        question.hint = f"{question.hint}; or {hint}"
        raise


BLOCK = "block"  # the option: where the modules beside a layer stand in its block, if widths do not tell
AFTER, BEFORE = "after", "before"
WORDS = "a module in the block of a layer runs after the layer, or before it"


# radon: the checks of names, then the order.
def arrange(layers: Sides, others: Sequence[OtherModule], options: Options) -> list[str]:
    """The order of all prefixes. `layers` has the sources and destinations of each layer, in natural order. A module
    in one block with a layer runs right after or before that layer. Raises FamilyError if the file does not show the
    order."""
    blocks = {unwrapped(prefix): prefix for prefix in layers if unwrapped(prefix) != prefix}
    homes = {other.prefix: blocks.get(parent_of(other.prefix), "") for other in others}
    mates = [other for other in others if homes[other.prefix]]
    others = [other for other in others if not homes[other.prefix]]
    for other, layer in itertools.product(others, layers):
        if other.prefix.startswith(layer):
            raise FamilyError(
                f"{other.prefix}* ({other.kind}) is inside the layer {layer.removesuffix('.') or '(single)'}, "
                "so the layer differs from that of the library",
                code="layer-modified",
                hint=GIVE_ARCHITECTURE,
            )
    names = {unwrapped(prefix): prefix for prefix in layers}
    if len(names) < len(layers):
        names = {prefix: prefix for prefix in layers}
    ordered = [names.get(name, name) for name in _order({n: layers[p] for n, p in names.items()}, others, options)]
    sides = _block_sides(mates, homes, layers, options)
    for other in mates:
        at = ordered.index(homes[other.prefix])
        ordered.insert(at + (sides[other.prefix] == AFTER), other.prefix)
    return ordered


def _block_sides(
    mates: Sequence[OtherModule], homes: dict[str, str], layers: Sides, options: Options
) -> dict[str, str]:
    """The side of its layer on which each module of a block runs: the only one that fits, that of the others, or the
    one of the option. Raises FamilyError if no side fits, or if two modules are on one side."""
    fits: dict[str, list[str]] = {}
    for other in mates:
        n, m = layers[homes[other.prefix]]
        fits[other.prefix] = [side for side, width in ((BEFORE, n), (AFTER, m)) if other.fits(width)]
        if not fits[other.prefix]:
            raise FamilyError(
                f"{other.prefix}* ({other.kind} of {other.width}) fits neither side of its layer, {n} to {m}",
                code="module-does-not-fit",
                hint=GIVE_ARCHITECTURE,
            )
    decided = {sides[0] for sides in fits.values() if len(sides) == 1}
    usual = next(iter(decided), AFTER)
    if len(decided) != 1 and any(len(sides) > 1 for sides in fits.values()):
        usual = options.choice(BLOCK, (AFTER, BEFORE), AFTER, words=WORDS)
    chosen = {prefix: sides[0] if len(sides) == 1 else usual for prefix, sides in fits.items()}
    if len({(homes[prefix], side) for prefix, side in chosen.items()}) < len(mates):
        raise FamilyError(
            f"the file does not record the order of {' and '.join(chosen)} and their layers",
            code="order-not-recorded",
            hint=GIVE_ARCHITECTURE,
        )
    return chosen


def _order(layers: Sides, others: Sequence[OtherModule], options: Options) -> list[str]:
    """The order of `arrange`, for layers under the names of their places. The layers must have one parent. Modules
    between them must have the same parent, or be in a list next to theirs; otherwise they are parts of a larger model.
    Raises FamilyError."""
    names = [other.prefix for other in others]
    parents, homes = (set(map(of, layers)) for of in (parent_of, _home))
    if len(parents) > 1 or not {_home(name) for name in names} <= homes:
        places = sorted({parent_of(name) for name in (*layers, *names)})
        raise FamilyError(
            f"the KAN layers and the modules between them are in {len(places)} places: "
            f"{', '.join(map(repr, places[:4]))}",
            code="model-ambiguous",
            hint=f"select one with --option prefix=KEY_PREFIX, or {GIVE_ARCHITECTURE}",
        )
    order = list(layers) if counted(layers) else _only_chain(layers, options)
    everything = [*order, *names]
    if _numbered(everything):
        everything.sort(key=natural)
        return everything
    placed: dict[int, list[str]] = {}
    for name, gap in _gaps(order, layers, others).items():
        placed.setdefault(gap, []).append(name)
    for gap, rivals in placed.items():
        if len(rivals) > 1:
            raise FamilyError(
                f"{' and '.join(rivals)} may both precede layer {gap} of {len(order)}",
                code="order-not-recorded",
                hint=GIVE_ARCHITECTURE,
            )
    return [name for gap in range(len(order) + 1) for name in (*placed.get(gap, []), *order[gap : gap + 1])]


def input_widths(order: Sequence[str], layers: Sides) -> list[int]:
    """The input widths of the modules of an order, by place."""
    width = next(layers[name][0] for name in order if name in layers)
    inputs = []
    for name in order:
        inputs.append(width)
        width = layers[name][1] if name in layers else width
    return inputs


def counted(names: Iterable[str]) -> bool:
    """Whether the names differ only in their numbers, so that these give the order."""
    return len({re.sub(r"\d+", "#", name) for name in names}) == 1


def starts_late(order: Sequence[str], root: str) -> int:
    """The lowest number of all modules of a numbered list; 0 if no module can precede it. A user who selects the
    first module by a `root` knows the modules before it."""
    first = re.fullmatch(r"(.*?)(\d+)\.", order[0])
    return int(first[2]) if first and _numbered(order) and len(root) <= len(first[1]) else 0


def unwrapped(prefix: str) -> str:
    """The place of a layer in a wrapper without effect: OrthogPolyKANLayer of OrthogPolyKANs, L1 of torch-conv-kan."""
    return re.sub(r"(?<=\.)(layer|module)\.$", "", prefix)


def _only_chain(layers: Sides, options: Options) -> list[str]:
    """The only order of the layers in which the widths fit, or the order of the user. Raises FamilyError."""
    orders = itertools.permutations(layers) if len(layers) <= CHAIN_LIMIT else ()
    fitting = (order for order in orders if all(layers[a][1] == layers[b][0] for a, b in itertools.pairwise(order)))
    chains = list(itertools.islice(fitting, CHAINS + 1))
    by_text = {",".join(name.removesuffix(".") for name in chain): chain for chain in chains}
    by_user = options.optional("order") is not None
    if len(chains) == 1 and not by_user:
        return list(chains[0])
    sides = [f"{name.removesuffix('.')} ({n} to {m})" for name, (n, m) in layers.items()]
    message = f"the file does not record the order of the KAN layers {', '.join(sides[:6])}"
    hint = f"export the layers one by one with --option prefix=KEY_PREFIX; or {GIVE_ARCHITECTURE}"
    if not 1 <= len(chains) <= CHAINS:
        raise FamilyError(message, code="order-not-recorded", hint=hint)
    values = {text.lower(): chain for text, chain in by_text.items()}
    return list(values[must(options, "order", values, message, hint)])


def _gaps(order: list[str], layers: Sides, others: Sequence[OtherModule]) -> dict[str, int]:
    """The gap of each module: gap g is before layer g. Modules with the numbers of layers, such as ln1 and ln2, all
    follow those layers, or all precede them; others are in the only gap that fits their width. Raises FamilyError if
    more than one place is possible."""
    widths = [layers[order[0]][0], *(layers[name][1] for name in order)]  # of the nodes in each gap
    numbers = enumerate(map(number_of, order)) if counted(order) else ()
    places = {number: place for place, number in numbers if number is not None}
    series: dict[str, list[OtherModule]] = {}  # modules with names that differ only in the number at the end
    for other in sorted(others, key=lambda item: natural(item.prefix)):
        series.setdefault(re.sub(r"\d+\.$", "", other.prefix), []).append(other)
    gaps: dict[str, int] = {}
    for members in series.values():
        before = [places[number] for other in members if (number := number_of(other.prefix)) in places]
        shift = _shift(members, before, len(places), widths) if len(before) == len(members) else None
        for at, other in enumerate(members):
            fitting = [gap for gap, width in enumerate(widths) if other.fits(width)]
            if shift is not None:
                fitting = [before[at] + shift]
            if len(fitting) != 1:
                raise _undecided(other, widths)
            gaps[other.prefix] = fitting[0]
    return gaps


def _shift(members: Sequence[OtherModule], before: list[int], layers: int, widths: list[int]) -> int | None:
    """0 if the modules are in the gaps before the layers of their numbers, 1 if after, None if the widths allow
    neither. Raises FamilyError if the widths allow both. If there is exactly one module for each of the `layers`
    except the last, the modules are between the layers."""
    fits = [
        all(other.fits(widths[gap + shift]) for other, gap in zip(members, before, strict=True)) for shift in (0, 1)
    ]
    if all(fits) and before != list(range(layers - 1)):
        raise _undecided(members[0], widths)
    return 1 if fits[1] else 0 if fits[0] else None


def _undecided(other: OtherModule, widths: list[int]) -> FamilyError:
    return FamilyError(
        f"the file does not record the place of {other.prefix}* ({other.kind} of {other.width}) among "
        f"{len(widths) - 1} KAN layers of widths {', '.join(map(str, widths))}",
        code="order-not-recorded",
        hint=GIVE_ARCHITECTURE,
    )


def number_of(name: str) -> int | None:
    """The number at the end of the name of a module: 2 of "net.ln2."."""
    digits = re.search(r"(\d+)\.?$", name)
    return int(digits[1]) if digits else None


def _numbered(names: Sequence[str]) -> bool:
    """Whether all names are numbered children of one parent: a Sequential, which has a known order."""
    return len({re.sub(r"\d+\.$", "", name) for name in names}) == 1 and all(re.search(r"\d+\.$", n) for n in names)


def parent_of(name: str) -> str:
    """The prefix of the parent of a module: "net." of "net.0."."""
    return re.sub(r"[^.]*\.$", "", name)


def _home(name: str) -> str:
    """The module that has it as a member; for an item of a list, the parent of the list."""
    return parent_of(parent_of(name)) if re.search(r"(^|\.)\d+\.$", name) else parent_of(name)


def numbering_gaps(order: Sequence[str], layers: Sequence[str]) -> list[tuple[str, str]]:
    """Neighbors with numbers that do not follow, such as layers.0 and layers.2: the module between has no weights,
    but may have an effect. In one list, all modules count; otherwise only the layers."""
    counting = [name for name in order if name in layers or _numbered(list(map(unwrapped, order)))]
    pairs = []
    for before, after in itertools.pairwise(counting):
        first, second = (re.fullmatch(r"(.*?)(\d+)\.", unwrapped(name)) for name in (before, after))
        if first and second and first[1] == second[1] and int(second[2]) != int(first[2]) + 1:
            pairs.append((before, after))
    return pairs
