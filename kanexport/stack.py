"""From single layers to a network: which layers a file holds, in which order, and
what stands between them.

A state dict tells names and shapes, not the order of a forward pass. What follows
from them without doubt is used (the numbers of a Sequential, a width that fits in
one place only); what is likely is used and recorded as assumed; the rest is
refused, and the user lists the steps in a file (`architecture.py`).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.errors import FamilyError, InvalidKan
from kanexport.ir import Kan, Layer
from kanexport.options import Options
from kanexport.parts import Keys, Part, Tensors, natural
from kanexport.steps import Affine, LayerNorm, PRelu, Step

EPSILON = "1e-5"  # torch's default in every normalisation
NORM = frozenset({"weight", "bias"})
BATCH_NORM = NORM | {"running_mean", "running_var"}
COUNTER = "num_batches_tracked"
CHAIN_LIMIT = 6  # layers whose order is looked for
GIVE_ARCHITECTURE = "list the steps in a file, and give it with --architecture layers.toml (see docs/architecture.md)"


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One of several kinds of layers that a reader module reads: a member of its FAMILIES."""

    FAMILY: str
    KEYS: Keys
    layer: Callable[[Part, Options], Layer]


@dataclass(frozen=True, slots=True)
class Between:
    """A module that is not a KAN layer: its prefix, its kind, and its width (1: any)."""

    prefix: str
    kind: str  # layernorm, batchnorm or prelu
    width: int


def prefixes(tensors: Tensors, keys: Keys, root: str = "") -> list[str]:
    """Prefixes under `root` where all required tensors lie, in natural order."""
    first = next(iter(keys.required))
    found = [key.removesuffix(first) for key in tensors if key.endswith(first) and key.startswith(root)]
    complete = [
        prefix
        for prefix in found
        if (prefix == "" or prefix.endswith("."))
        and all(Part(tensors, prefix).has(name) for name in keys.required)
        and all(len(Part(tensors, prefix).shape(name)) == ndim for name, ndim in keys.required.items())
        and not any(Part(tensors, prefix).has(name) for name in keys.absent)
    ]
    return sorted(complete, key=natural)


def between(tensors: Tensors, keys: Keys, layers: Sequence[str], root: str = "") -> list[Between]:
    """The modules beside the layers. Raises FamilyError for one that is not recognised."""
    own = {prefix + name for prefix in layers for name in keys.names()}
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, value in tensors.items():
        if key not in own and key.startswith(root):
            prefix, _, name = key.rpartition(".")
            groups.setdefault(prefix + "." if prefix else "", {})[name] = value.shape
    return [_recognise(prefix, names, len(layers)) for prefix, names in groups.items()]


def _recognise(prefix: str, names: dict[str, tuple[int, ...]], count: int) -> Between:
    shapes = {shape for name, shape in names.items() if name != COUNTER}
    found = frozenset(names) - {COUNTER}
    if prefix and len(shapes) == 1 and len(shape := next(iter(shapes))) == 1:
        if found == NORM:
            return Between(prefix, "layernorm", shape[0])
        if found == BATCH_NORM:
            return Between(prefix, "batchnorm", shape[0])
        if found == {"weight"} and (shape[0] == 1 or "relu" in prefix):
            return Between(prefix, "prelu", shape[0])
    key = prefix + next(iter(names))
    raise FamilyError(
        f"beside {count} KAN layers there are tensors of other modules, such as {key!r} {names[next(iter(names))]}",
        hint="a KAN that is a part of this model is exported by itself with --option prefix=KEY_PREFIX, "
        f"a whole module with --module; or {GIVE_ARCHITECTURE}",
    )


def arrange(layers: dict[str, tuple[int, int]], others: Sequence[Between]) -> list[str]:
    """The order of all prefixes. `layers` gives each layer's sources and destinations,
    in natural order. Raises FamilyError where the file leaves the order open."""
    _refuse_places(list(layers), others)
    order = list(layers) if counted(layers) else _only_chain(layers)
    if _numbered([*order, *(other.prefix for other in others)]):
        everything = sorted([*order, *(other.prefix for other in others)], key=natural)
        _refuse_gaps(everything)
        return everything
    _refuse_gaps(order)
    placed: dict[int, list[str]] = {}
    for other in sorted(others, key=lambda item: natural(item.prefix)):
        placed.setdefault(_place(other, order, layers), []).append(other.prefix)
    for gap, names in placed.items():
        if len(names) > 1:
            raise FamilyError(
                f"{' and '.join(names)} may both stand before layer {gap} of {len(order)}", hint=GIVE_ARCHITECTURE
            )
    return [name for gap in range(len(order) + 1) for name in (*placed.get(gap, []), *order[gap : gap + 1])]


def counted(names: Iterable[str]) -> bool:
    """Whether the names differ in their numbers alone, so that these tell the order."""
    return len({re.sub(r"\d+", "#", name) for name in names}) == 1


def _only_chain(layers: dict[str, tuple[int, int]]) -> list[str]:
    """The one order of the layers in which each takes what the one before gives."""
    some = itertools.islice(_chains((), layers), 2)
    found = [list(chain) for chain in some] if len(layers) <= CHAIN_LIMIT else []
    if len(found) != 1:
        sides = [f"{name.removesuffix('.')} ({n} to {m})" for name, (n, m) in layers.items()]
        raise FamilyError(
            f"the file does not tell the order of the KAN layers {', '.join(sides[:6])}",
            hint=f"{GIVE_ARCHITECTURE}, or export the layers one by one with --option prefix=KEY_PREFIX",
        )
    return found[0]


def _chains(start: tuple[str, ...], layers: dict[str, tuple[int, int]]) -> Iterator[tuple[str, ...]]:
    """All orders that begin with `start` and in which the widths fit."""
    if len(start) == len(layers):
        yield start
    for name in layers:
        if name not in start and (not start or layers[start[-1]][1] == layers[name][0]):
            yield from _chains((*start, name), layers)


def _place(other: Between, order: list[str], layers: dict[str, tuple[int, int]]) -> int:
    """The gap a module belongs to: g stands before layer g. Its number decides, if the
    width fits after the layer of that number; else the only gap of its width."""
    widths = [layers[order[0]][0], *(layers[prefix][1] for prefix in order)]
    fitting = [gap for gap, width in enumerate(widths) if other.width in (1, width)]
    number = _number(other.prefix)
    for gap, prefix in enumerate(order, start=1):
        if number is not None and _number(prefix) == number and gap in fitting:
            return gap
    if len(fitting) == 1:
        return fitting[0]
    raise FamilyError(
        f"the file does not tell where {other.prefix}* ({other.kind} of {other.width}) stands among "
        f"{len(order)} KAN layers of widths {', '.join(map(str, widths))}",
        hint=GIVE_ARCHITECTURE,
    )


def _number(prefix: str) -> int | None:
    found = re.search(r"(\d+)\.?$", prefix)
    return int(found[1]) if found else None


def _numbered(names: Sequence[str]) -> bool:
    """Whether all are numbered children of one parent: a Sequential, whose order is known."""
    return len({re.sub(r"\d+\.$", "", name) for name in names}) == 1 and all(re.search(r"\d+\.$", n) for n in names)


def _refuse_places(order: Sequence[str], others: Sequence[Between]) -> None:
    """Layers in several lists, or in lists beside which there is something else, are parts of a larger model."""
    parents = {re.sub(r"[^.]*\.$", "", prefix) for prefix in (*order, *(other.prefix for other in others))}
    if len(parents) > 1:
        raise FamilyError(
            f"the KAN layers and what stands between them lie in {len(parents)} places: "
            f"{', '.join(repr(parent) for parent in sorted(parents)[:4])}",
            hint=f"choose one with --option prefix=KEY_PREFIX, or {GIVE_ARCHITECTURE}",
        )


def _refuse_gaps(order: Sequence[str]) -> None:
    """layers.0 and layers.2: what stood between has no weights, but may well do something."""
    for before, after in itertools.pairwise(order):
        first, second = (re.fullmatch(r"(.*?)(\d+)\.", prefix) for prefix in (before, after))
        if first and second and first[1] == second[1] and int(second[2]) != int(first[2]) + 1:
            raise FamilyError(
                f"{before}* is followed by {after}*; the file does not tell what stands between",
                hint=GIVE_ARCHITECTURE + ", or export the layers one by one with --option prefix=KEY_PREFIX",
            )


def norm(part: Part, options: Options, kind: str, width: int) -> Step:
    """A module between layers as a step. The epsilons are in no file."""
    if kind == "layernorm":
        epsilon = options.number("layernorm_eps", EPSILON)
        bias = part.tensor("bias", width) if part.has("bias") else np.zeros(width)
        return LayerNorm(part.tensor("weight", width), bias, epsilon)
    if kind == "batchnorm":
        return batch_norm(part, options, width)
    return PRelu(part.tensor("weight", None))


def batch_norm(part: Part, options: Options, width: int) -> Affine:
    """BatchNorm in eval mode: (x - mean) / sqrt(var + eps) * weight + bias, folded."""
    epsilon = options.number("batchnorm_eps", EPSILON)
    variance, mean = part.tensor("running_var", width), part.tensor("running_mean", width)
    weight = part.tensor("weight", width) if part.has("weight") else np.ones(width)
    bias = part.tensor("bias", width) if part.has("bias") else np.zeros(width)
    if not (variance + epsilon > 0).all():
        raise InvalidKan(f"{part.prefix}running_var has a value of {variance.min()}, expected variances")
    scale = weight / np.sqrt(variance + epsilon)
    return Affine(scale, bias - mean * scale)


def chain(items: Sequence[Layer | Step], dtype: str, notes: tuple[str, ...] = ()) -> Kan:
    """A network of layers and the steps between them, in order. Steps before the first
    layer are that layer's, all others follow the layer they stand after. Raises InvalidKan."""
    layers: list[Layer] = []
    waiting: list[Step] = []
    for item in items:
        if isinstance(item, Layer):
            layers.append(dataclasses.replace(item, before=(*waiting, *item.before)))
            waiting = []
        elif layers:
            layers[-1] = dataclasses.replace(layers[-1], after=(*layers[-1].after, item))
        else:
            waiting.append(item)
    if not layers:
        raise InvalidKan("there is no KAN layer")
    return Kan(layers[0].sources, tuple(layers), dtype, notes)
