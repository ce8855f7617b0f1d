"""From single layers to a network: which layers a file holds, what stands between them, the chain of both.

Their order is in `layers/order.py`, what a module beside them is in `layers/kinds.py`, how the
nodes flow through them in `layers/flow.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kanexport.errors import FamilyError, InvalidKan
from kanexport.form.ir import Kan, Layer
from kanexport.form.steps import Affine, Step
from kanexport.layers import kinds
from kanexport.layers.kinds import BATCH_NORM, COUNTER
from kanexport.layers.order import GIVE_ARCHITECTURE, OtherModule
from kanexport.layers.parts import Keys, Part, Tensors, natural
from kanexport.options import Options

__all__ = ["BATCH_NORM", "COUNTER", "LayerKind", "batch_norm", "beside", "chain", "norm", "prefixes"]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One of several kinds of layers that a reader module reads: a member of its FAMILIES."""

    FAMILY: str
    KEYS: Keys
    layer: Callable[[Part, Options], Layer]


def prefixes(tensors: Tensors, keys: Keys, root: str = "") -> list[str]:
    """Prefixes under `root` where all required tensors lie, in natural order."""
    first = next(iter(keys.required))
    candidates = [key.removesuffix(first) for key in tensors if key.endswith(first) and key.startswith(root)]
    whole_names = [prefix for prefix in candidates if prefix == "" or prefix.endswith(".")]
    return sorted((prefix for prefix in whole_names if Part(tensors, prefix).matches(keys)), key=natural)


def beside(tensors: Tensors, keys: Keys, layers: Sequence[str], root: str = "") -> list[OtherModule]:
    """The modules beside the layers; `kinds.decided` says what those are that may be several things.
    Raises FamilyError for one that is not recognised."""
    own = {prefix + name for prefix in layers for name in keys.names()}
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, value in tensors.items():
        if key not in own and key.startswith(root):
            prefix, _, name = key.rpartition(".")
            groups.setdefault(prefix + "." if prefix else "", {})[name] = value.shape
    return [_recognise(prefix, names, len(layers)) for prefix, names in groups.items()]


def _recognise(prefix: str, shapes: dict[str, tuple[int, ...]], count: int) -> OtherModule:
    """The module with tensors of these shapes, by name, beside `count` layers. Raises
    FamilyError where it is none that is known."""
    kind, width = kinds.proposed(shapes)
    if prefix and kind:
        return OtherModule(prefix, kind, width)
    name, shape = next(iter(shapes.items()))
    raise FamilyError(
        f"beside {count} KAN layers there are tensors of other modules, such as {prefix + name!r} {shape}",
        hint=f"a KAN that is a part of this model is exported by itself with --option prefix=KEY_PREFIX; "
        f"or {GIVE_ARCHITECTURE}",
    )


def norm(part: Part, options: Options, kind: str, width: int) -> Step:
    """A module between layers as a step for `width` nodes; `kind` is one of `kinds.STEPS`.
    Raises InvalidKan or OptionError."""
    return kinds.step(part, options, kind, width)


def batch_norm(part: Part, options: Options, width: int) -> Affine:
    """As `kinds.batch_norm`, for readers of layers that end in one. Raises InvalidKan or OptionError."""
    return kinds.batch_norm(part, options, width)


def chain(
    items: Sequence[Layer | Step], dtype: str, notes: tuple[str, ...] = (), *, n_inputs: int | None = None
) -> Kan:
    """A network of layers and the steps between them, in order. Steps before the first
    layer are that layer's, all others follow the layer they stand after. `n_inputs`, where
    a first step takes more than the first layer has sources. Raises InvalidKan."""
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
    return Kan(n_inputs or layers[0].sources, tuple(layers), dtype, notes)
