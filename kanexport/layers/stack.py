"""From single layers to a network: which layers a file holds, what stands between them, the chain of both.

Their order is in `layers/order.py`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.errors import FamilyError, InvalidKan
from kanexport.form.ir import Kan, Layer
from kanexport.form.steps import Affine, LayerNorm, PRelu, Step
from kanexport.layers.order import GIVE_ARCHITECTURE, OtherModule
from kanexport.layers.parts import Keys, Part, Tensors, natural
from kanexport.options import EPSILONS, Options

NORM = frozenset({"weight", "bias"})
BATCH_NORM = NORM | {"running_mean", "running_var"}
COUNTER = "num_batches_tracked"
OTHER_NORM = re.compile(r"(bn|gn)\d*$|batch|group|inst", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One of several kinds of layers that a reader module reads: a member of its FAMILIES."""

    FAMILY: str
    KEYS: Keys
    layer: Callable[[Part, Options], Layer]
    fits: Callable[[Part], bool] | None = None  # only where shapes must tell


def prefixes(tensors: Tensors, keys: Keys, root: str = "") -> list[str]:
    """Prefixes under `root` where all required tensors lie, in natural order."""
    first = next(iter(keys.required))
    candidates = [key.removesuffix(first) for key in tensors if key.endswith(first) and key.startswith(root)]
    whole_names = [prefix for prefix in candidates if prefix == "" or prefix.endswith(".")]
    return sorted((prefix for prefix in whole_names if Part(tensors, prefix).matches(keys)), key=natural)


def between(tensors: Tensors, keys: Keys, layers: Sequence[str], root: str = "") -> list[OtherModule]:
    """The modules beside the layers. Raises FamilyError for one that is not recognised."""
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
    weights = {name: shape for name, shape in shapes.items() if name != COUNTER}
    common = set(weights.values())
    if prefix and len(common) == 1 and len(shape := common.pop()) == 1:
        kind = _kind(prefix, frozenset(weights), shape[0])
        if kind:
            return OtherModule(prefix, kind, shape[0])
    name, shape = next(iter(shapes.items()))
    raise FamilyError(
        f"beside {count} KAN layers there are tensors of other modules, such as {prefix + name!r} {shape}",
        hint="a KAN that is a part of this model is exported by itself with --option prefix=KEY_PREFIX, "
        f"a whole module with --module; or {GIVE_ARCHITECTURE}",
    )


def _kind(prefix: str, names: frozenset[str], width: int) -> str:
    """What a module is whose tensors have these names and one axis of `width`; empty where
    that is not known. Raises FamilyError for a norm that is no LayerNorm."""
    if names == NORM:
        _refuse_other_norms(prefix)
        return "layernorm"
    if names in (BATCH_NORM, BATCH_NORM - NORM):
        return "batchnorm"
    return "prelu" if names == {"weight"} and (width == 1 or "relu" in prefix) else ""


def _refuse_other_norms(prefix: str) -> None:
    """A weight and a bias are a LayerNorm's, but also those of norms that do something else."""
    if any(OTHER_NORM.match(part) for part in re.split(r"[._]", prefix)):
        raise FamilyError(
            f"{prefix}* has a weight and a bias, as a LayerNorm has, but not the name of one; a BatchNorm without "
            "running statistics depends on the batch, and other norms have groups that no file tells",
            hint=f"if it is a LayerNorm, {GIVE_ARCHITECTURE}",
        )


def norm(part: Part, options: Options, kind: str, width: int) -> Step:
    """A module between layers as a step; `kind` as in `OtherModule`. The epsilons are in no
    file: the options layernorm_eps and batchnorm_eps. Raises InvalidKan or OptionError."""
    if kind == "layernorm":
        epsilon = options.number("layernorm_eps", EPSILONS[0], among=EPSILONS)
        bias = part.tensor("bias", width) if part.has("bias") else np.zeros(width)
        return LayerNorm(part.tensor("weight", width), bias, epsilon)
    if kind == "batchnorm":
        return batch_norm(part, options, width)
    return PRelu(part.tensor("weight", None))


def batch_norm(part: Part, options: Options, width: int) -> Affine:
    """torch.nn.BatchNorm1d in eval mode, (x - mean) / sqrt(var + eps) * weight + bias, as one
    scale and bias per node. Raises InvalidKan or OptionError."""
    epsilon = options.number("batchnorm_eps", EPSILONS[0], among=EPSILONS)
    variance, mean = part.tensor("running_var", width), part.tensor("running_mean", width)
    weight = part.tensor("weight", width) if part.has("weight") else np.ones(width)
    bias = part.tensor("bias", width) if part.has("bias") else np.zeros(width)
    wrong = variance[~((variance + epsilon > 0) & np.isfinite(variance))]  # divided by infinity, all is zero
    if len(wrong):
        raise InvalidKan(f"{part.prefix}running_var has a value of {wrong[0]}, expected finite variances")
    scale = weight / np.sqrt(variance + epsilon)
    return Affine(scale, bias - mean * scale)


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
