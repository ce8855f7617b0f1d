"""The order of the layers of a network and of the modules between them.

A state dict tells names and shapes, not the order of a forward pass. The reader uses facts
that follow from them (the numbers of a Sequential, a width that fits in one place only).
It records likely facts as assumed. It refuses the rest, and the user writes an
architecture file (`detection/architecture_file.py`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
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
    kind: str  # of `module_kinds.STEPS`, or one of the questions of `module_kinds.QUESTIONS`
    width: int

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


def arrange(layers: Sides, others: Sequence[OtherModule], options: Options) -> list[str]:
    """The order of all prefixes. `layers` has the sources and destinations of each layer, in natural order. Raises
    FamilyError if the file does not show the order."""
    _refuse_inner(list(layers), others)
    names = {unwrapped(prefix): prefix for prefix in layers}
    if len(names) < len(layers):
        names = {prefix: prefix for prefix in layers}
    sides = {name: layers[prefix] for name, prefix in names.items()}
    _refuse_homes(list(sides), [other.prefix for other in others])
    return [names.get(name, name) for name in _order(sides, others, options)]


def _order(layers: Sides, others: Sequence[OtherModule], options: Options) -> list[str]:
    """The order of `arrange`, for layers under the names of their places. Raises FamilyError."""
    order = list(layers) if counted(layers) else _only_chain(layers, options)
    everything = [*order, *(other.prefix for other in others)]
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
    known = len(layers) <= CHAIN_LIMIT
    chains = [*itertools.islice(_chains((), layers), CHAINS + 1)] if known else []
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


def _chains(start: tuple[str, ...], layers: Sides) -> Iterator[tuple[str, ...]]:
    """All orders that begin with `start` and in which the widths fit."""
    if len(start) == len(layers):
        yield start
    for name in layers:
        if name not in start and (not start or layers[start[-1]][1] == layers[name][0]):
            yield from _chains((*start, name), layers)


def _gaps(order: list[str], layers: Sides, others: Sequence[OtherModule]) -> dict[str, int]:
    """The gap of each module: gap g is before layer g. Modules with the numbers of layers, such as ln1 and ln2, all
    follow those layers, or all precede them; others are in the only gap that fits their width. Raises FamilyError if
    more than one place is possible."""
    widths = [layers[order[0]][0], *(layers[name][1] for name in order)]  # of the nodes in each gap
    places = _numbered_places(order)
    gaps: dict[str, int] = {}
    for members in _series(others):
        gaps |= _gaps_by_number(members, places, widths) or {m.prefix: _only_gap(m, widths) for m in members}
    return gaps


def _numbered_places(order: list[str]) -> dict[int, int]:
    """The place in the order by the number of a layer. Empty if the names differ in more than that."""
    numbers = {_number(name): place for place, name in enumerate(order)} if counted(order) else {}
    return {number: place for number, place in numbers.items() if number is not None}


def _series(others: Sequence[OtherModule]) -> list[list[OtherModule]]:
    """Groups of modules with names that differ only in the number at the end, such as ln1 and ln2."""
    series: dict[str, list[OtherModule]] = {}
    for other in sorted(others, key=lambda item: natural(item.prefix)):
        series.setdefault(re.sub(r"\d+\.$", "", other.prefix), []).append(other)
    return list(series.values())


def _gaps_by_number(members: Sequence[OtherModule], places: dict[int, int], widths: list[int]) -> dict[str, int]:
    """The gaps of modules that have the numbers of layers; empty if one has not, or if the widths allow none. Raises
    FamilyError if the widths allow both places, before and after the layers."""
    numbers = [_number(other.prefix) for other in members]
    before = [places[number] for number in numbers if number in places]
    shift = _shift(members, before, len(places), widths) if len(before) == len(members) else None
    if shift is None:
        return {}
    return {other.prefix: gap + shift for other, gap in zip(members, before, strict=True)}


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


def _only_gap(other: OtherModule, widths: list[int]) -> int:
    """The only gap of the width of the module. Raises FamilyError if there is none, or more than one."""
    fitting = [gap for gap, width in enumerate(widths) if other.fits(width)]
    if len(fitting) != 1:
        raise _undecided(other, widths)
    return fitting[0]


def _undecided(other: OtherModule, widths: list[int]) -> FamilyError:
    return FamilyError(
        f"the file does not record the place of {other.prefix}* ({other.kind} of {other.width}) among "
        f"{len(widths) - 1} KAN layers of widths {', '.join(map(str, widths))}",
        code="order-not-recorded",
        hint=GIVE_ARCHITECTURE,
    )


def _number(name: str) -> int | None:
    """The number at the end of the name of a module: 2 of "net.ln2."."""
    digits = re.search(r"(\d+)\.?$", name)
    return int(digits[1]) if digits else None


def _numbered(names: Sequence[str]) -> bool:
    """Whether all names are numbered children of one parent: a Sequential, which has a known order."""
    return len({re.sub(r"\d+\.$", "", name) for name in names}) == 1 and all(re.search(r"\d+\.$", n) for n in names)


def _refuse_inner(layers: Sequence[str], others: Sequence[OtherModule]) -> None:
    """Raises FamilyError for a module inside a layer, which is not a step next to it."""
    inner = [(other, layer) for other in others for layer in layers if other.prefix.startswith(layer)]
    if inner:
        other, layer = inner[0]
        raise FamilyError(
            f"{other.prefix}* ({other.kind}) is inside the layer {layer.removesuffix('.') or '(single)'}, "
            "so the layer differs from that of the library",
            code="layer-modified",
            hint=GIVE_ARCHITECTURE,
        )


def _refuse_homes(layers: Sequence[str], others: Sequence[str]) -> None:
    """Check that layers have one parent. Modules between them must have the same parent, or be in a list next to
    theirs. Otherwise they are parts of a larger model. Raises FamilyError."""
    parents, homes = (set(map(of, layers)) for of in (_parent, _home))
    if len(parents) > 1 or not {_home(name) for name in others} <= homes:
        places = sorted({_parent(name) for name in (*layers, *others)})
        raise FamilyError(
            f"the KAN layers and the modules between them are in {len(places)} places: "
            f"{', '.join(map(repr, places[:4]))}",
            code="model-ambiguous",
            hint=f"select one with --option prefix=KEY_PREFIX, or {GIVE_ARCHITECTURE}",
        )


def _parent(name: str) -> str:
    """The prefix of the parent of a module: "net." of "net.0."."""
    return re.sub(r"[^.]*\.$", "", name)


def _home(name: str) -> str:
    """The module that has it as a member; for an item of a list, the parent of the list."""
    return _parent(_parent(name)) if re.search(r"(^|\.)\d+\.$", name) else _parent(name)


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
