"""Kinds of the modules next to KAN layers: tensors propose a kind; the name of the module or the user decides it.

A weight and a bias are a LayerNorm's, an RMS norm's, a GroupNorm's, or a plain scale and shift;
a weight alone or one number can be as much. Where the module's own name says which, that is
assumed; elsewhere it must be told (options norm, vector and scalar), or recorded outputs of the trained
model decide.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.errors import REPAIR, FamilyError, InvalidKan
from kanexport.ir.norms import GroupNorm, LayerNorm, RmsNorm
from kanexport.ir.steps import Affine, PRelu, Step, Swish
from kanexport.options import EPSILONS, Options
from kanexport.readers.common.layer_tensors import Array, Keys, Part, Tensors, modules_of
from kanexport.readers.common.order import GIVE_ARCHITECTURE, OtherModule, must, unwrapped

COUNTER = "num_batches_tracked"
# Weight and bias, by the names that modules have for them.
PAIRS = (("weight", "bias"), ("gamma", "beta"), ("scale", "shift"), ("scale", "bias"), ("a_2", "b_2"))
NORM = frozenset(PAIRS[0])
BATCH_NORM = NORM | {"running_mean", "running_var"}
# Kinds of modules whose tensors tell no more: a pair, a vector of one number a node, one number.
PAIR, VECTOR, SCALAR = "norm", "vector", "scalar"
GROUPS = "groupnorm:"  # and their number

NUMBER = re.compile(r"\d+\.$")
LAYERNORM = re.compile(r"(^|[._\d])(ln|layer_?norms?)(?=[._\d]|$)", re.IGNORECASE)
RMSNORM = re.compile(r"rms", re.IGNORECASE)
PRELU = re.compile(r"relu", re.IGNORECASE)
SWISH = re.compile(r"swish|silu", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OpenChoice:
    """A choice between the kinds that modules of one shape may have.

    key       name of the option that decides it
    values    kinds to choose from
    patterns  patterns of module names, each with the kind that such a name means
    what      the choice in words, for messages
    """

    key: str
    values: tuple[str, ...]
    patterns: tuple[tuple[re.Pattern[str], str], ...]
    what: str


QUESTIONS = (
    OpenChoice(
        PAIR,
        ("layernorm", "affine", "rmsnorm"),
        ((LAYERNORM, "layernorm"),),
        "a weight and a bias, as in a LayerNorm, a GroupNorm, an RMS norm, a scale and shift, and a BatchNorm without "
        "running statistics, which depends on the batch",
    ),
    OpenChoice(
        VECTOR,
        ("rmsnorm", "layernorm", "prelu", "scale", "swish"),
        ((RMSNORM, "rmsnorm"), (LAYERNORM, "layernorm"), (PRELU, "prelu"), (SWISH, "swish")),
        "one number for each node, as in an RMS norm, a LayerNorm without bias, PReLU, Swish and a scale",
    ),
    OpenChoice(
        SCALAR,
        ("prelu", "swish", "scale"),
        ((PRELU, "prelu"), (SWISH, "swish")),
        "one number, as in PReLU, a learned Swish and a learned scale",
    ),
)


def proposed(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    """The kind, or the choice of kinds, and the width of a module with tensors of these shapes; "" if there is none."""
    weights = {name: shape or (1,) for name, shape in shapes.items() if name != COUNTER}
    common = set(weights.values())
    names, (width, *rest) = frozenset(weights), next(iter(common), (0, 0))
    if len(common) != 1 or rest or not width:
        return "", 0
    if names in map(frozenset, PAIRS):
        return PAIR, width
    if names in (BATCH_NORM, BATCH_NORM - NORM):
        return "batchnorm", width
    return (SCALAR if width == 1 else VECTOR) if len(names) == 1 else "", width


def other_modules(tensors: Tensors, keys: Keys, layers: Sequence[str], root: str = "") -> list[OtherModule]:
    """The modules next to the layers. `decide_kinds` decides the kind of ambiguous ones. Raises FamilyError for an
    unknown module."""
    own = {prefix + name for prefix in layers for name in keys.names()}
    others = {key: value for key, value in tensors.items() if key not in own and key.startswith(root)}
    modules = []
    for prefix, shapes in modules_of(others).items():
        kind, width = proposed(shapes)
        if not prefix or not kind:
            name, shape = next(iter(shapes.items()))
            raise FamilyError(
                f"the file has {len(layers)} KAN layers and other modules, such as {prefix + name!r} {shape}",
                code="other-modules-in-file",
                hint=f"export the KAN by itself with --option prefix=KEY_PREFIX; or {GIVE_ARCHITECTURE}",
            )
        modules.append(OtherModule(prefix, kind, width))
    return modules


def decide_kinds(others: Sequence[OtherModule], layers: Sequence[str], options: Options) -> list[OtherModule]:
    """The modules next to `layers` with the kind of each: the one of the option, otherwise the one of its name,
    which is recorded as assumed. A weight and a bias with a number as name, in one list with the layers, count as a
    LayerNorm. Raises OpenQuestion if the name does not decide the kind, OptionError for an unknown kind."""
    lists = {layer.removesuffix(number[0]) for layer in map(unwrapped, layers) if (number := NUMBER.search(layer))}
    kinds: dict[str, str] = {}
    for question in QUESTIONS:
        modules = [other for other in others if other.kind == question.key]
        if modules:
            kinds |= _chosen_kinds(question, modules, lists, options)
    return [dataclasses.replace(other, kind=kinds.get(other.prefix, other.kind)) for other in others]


# radon: names propose a kind, then the option decides, or the proposal is assumed.
def _chosen_kinds(
    question: OpenChoice, modules: Sequence[OtherModule], lists: set[str], options: Options
) -> dict[str, str]:
    """The kind of each module by prefix. `lists`: the prefixes of the lists that have layers."""
    values, kinds = question.values, {}
    for prefix in (other.prefix for other in modules):
        # A child of a Sequential without a name is nearly always the LayerNorm of torch.
        usual = "layernorm" if question.key == PAIR and NUMBER.sub("", prefix) in lists else ""
        kinds[prefix] = next((kind for pattern, kind in question.patterns if pattern.search(prefix)), usual)
    if question.key == PAIR:  # GroupNorms: one group is a LayerNorm; one node per group has no effect
        width, least = math.gcd(*(other.width for other in modules)), min(other.width for other in modules)
        values += tuple(f"{GROUPS}{count}" for count in range(2, least) if width % count == 0)
    silent = [prefix for prefix, kind in kinds.items() if not kind]
    if silent or options.optional(question.key) is not None:
        if options.optional(PAIR) == "batchnorm":
            raise FamilyError(
                f"{modules[0].prefix}* is a BatchNorm without running statistics: its outputs depend on the other rows "
                "of the batch",
                code="batchnorm-without-statistics",
                hint="train the model with track_running_stats=True",
            )
        first = next(iter(silent or kinds))
        kind = must(options, question.key, values, f"{first}* has {question.what}", GIVE_ARCHITECTURE)
        return dict.fromkeys(kinds, kind)
    for prefix, kind in kinds.items():
        options.assume(question.key, kind, among=values, words=f"{prefix}* has {question.what}")
    return kinds


def step(part: Part, options: Options, kind: str, width: int) -> Step:
    """A module of a kind as a step for `width` nodes. Files do not record the epsilons of normalizations; the options
    layernorm_eps, rmsnorm_eps, groupnorm_eps and batchnorm_eps give them. Raises InvalidKan or OptionError."""
    name, _, groups = kind.partition(":")
    match name:
        case "layernorm" | "groupnorm":
            epsilon = options.number(f"{name}_eps", EPSILONS[0], among=EPSILONS)
            scale, bias = _scale_and_bias(part, width)
            return GroupNorm(scale, bias, epsilon, groups=int(groups)) if groups else LayerNorm(scale, bias, epsilon)
        case "rmsnorm":
            # torch's default is the smallest number that changes 1 in float32.
            among = ("1e-6", *EPSILONS, repr(float(np.finfo(np.float32).eps)))
            epsilon = options.number("rmsnorm_eps", "1e-6", among=among)
            return RmsNorm(*_scale_and_bias(part, width), epsilon)
        case "affine":
            return Affine(*_scale_and_bias(part, width))
        case "batchnorm":
            return batch_norm(part, options, width)
        case "prelu":
            return PRelu(_number(part))
        case "swish":
            return Swish(_number(part))
        case "scale":
            return Affine(np.resize(_number(part), width), np.zeros(width))
    raise InvalidKan(
        f"{part.prefix}* has the unknown kind {kind[:80]!r}",
        code="module-kind-unknown",
        hint="name the kind of the module in an architecture file",
    )


def layer_norm(part: Part, options: Options, width: int) -> tuple[Step, ...]:
    """The LayerNorm with the tensors of a part, as the only step; no step if it has no weight. Raises InvalidKan or
    OptionError."""
    return (step(part, options, "layernorm", width),) if part.has("weight") else ()


def batch_norm(part: Part, options: Options, width: int) -> Affine:
    """torch.nn.BatchNorm1d in eval mode, (x - mean) / sqrt(var + eps) * weight + bias, as one scale and bias per
    node. Raises InvalidKan or OptionError."""
    epsilon = options.number("batchnorm_eps", EPSILONS[0], among=EPSILONS)
    variance, mean = part.tensor("running_var", width), part.tensor("running_mean", width)
    weight = part.tensor("weight", width) if part.has("weight") else np.ones(width)
    bias = part.tensor("bias", width) if part.has("bias") else np.zeros(width)
    wrong = variance[~((variance + epsilon > 0) & np.isfinite(variance))]  # divided by infinity, all is zero
    if len(wrong):
        raise InvalidKan(
            f"{part.prefix}running_var has the value {wrong[0]}, expected finite and positive variances",
            code="weights-not-finite",
            hint=REPAIR,
        )
    scale = weight / np.sqrt(variance + epsilon)
    return Affine(scale, bias - mean * scale)


def _scale_and_bias(part: Part, width: int) -> tuple[Array, Array]:
    """The weight and the bias, by any name; a missing bias is zero."""
    names = next((pair for pair in PAIRS if all(map(part.has, pair))), None)
    if names is not None:
        return part.tensor(names[0], width), part.tensor(names[1], width)
    return part.tensor(_only(part), width), np.zeros(width)


def _only(part: Part) -> str:
    """The name of the only tensor of a module with at most one axis; "weight" if there is none, or more than one."""
    names = [key.removeprefix(part.prefix) for key in part.tensors if key.startswith(part.prefix)]
    return names[0] if len(names) == 1 and len(part.shape(names[0])) <= 1 else "weight"


def _number(part: Part) -> Array:
    """One number, or one for each node; the tensor may have no axis."""
    name = _only(part)
    return part.tensor(name).reshape(1) if part.has(name) and part.shape(name) == () else part.tensor(name, None)
