"""GR-KAN: rational functions shared by groups of channels, each followed by a Linear.

Source: Adamdad/kat, katransformer.KAN.forward, and KAT_Group of Adamdad/rational_kat_cu:

    x -> act1 -> dropout -> fc1 -> act2 -> dropout -> fc2

where act is the rational function of `bases/rational.py` with one numerator [1, 6] and one
denominator [groups, 4]; of n channels, channel i belongs to group i // (n / groups). An edge
is W_ji r(x_i), and the Linear's bias belongs to the node. Which denominator trained the
model (the kernels' |x|^k, x^k of the pure-torch fallback, or |sum| of the paper) is in no file.

A state dict has no order, so the reader knows these: KAT's names, one rational and one
Linear, children of a Sequential by number, and numbered blocks of any of them. Everything
else is told with --option order=.

Options: denominator, order, num_groups, prefix
Recognized by: `weight_numerator`, `weight_denominator`
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence

import numpy as np

from kanexport.bases import rational
from kanexport.bases.rational import Rational
from kanexport.errors import USE_MODULE, FamilyError, InvalidKan, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import chain, module_kinds
from kanexport.readers.common.layer_tensors import Array, Keys, Part, Tensors, linear_layer, natural, storage_dtype
from kanexport.readers.common.order import OtherModule, number_of, parent_of

FAMILY = "gr-kan"
ABOVE, BELOW = "weight_numerator", "weight_denominator"
MARK = ABOVE
RATIONAL, LINEAR = "rational", "linear"
OWN = Keys(required={}, optional={ABOVE: 2, BELOW: 2, "weight": 2, "bias": 1})
DENOMINATORS = (
    "1 + |b_1| |x| + .. in the CUDA and Triton kernels; or signed, with x^k instead of |x|^k, in the fallback without "
    "kernels; or outer, 1 + |b_1 x + ..|, in the paper and other Pade units"
)
GIVE_ORDER = "pass --option order=act1,fc1,act2,fc2, with the names of the file, from input to output"


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint belongs to this family, or an empty text."""
    prefixes = _rationals(checkpoint.tensors, "")
    return f"{ABOVE} and {BELOW} in {len(prefixes)} module{'s' * (len(prefixes) > 1)}" if prefixes else ""


# radon: one case for each kind of module.
def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """The rational functions and Linears in their order. Raises FamilyError, InvalidKan or OptionError."""
    tensors, root = checkpoint.tensors, options.optional("prefix") or ""
    modules = _modules(tensors, root)
    order = _order_given(modules, options, root) or _order_of_names(modules, options)
    below = options.choice("denominator", rational.KINDS, "abs", words=DENOMINATORS)
    groups = options.integer("num_groups", at_least=1)
    own = [module.prefix for module in order if module.kind in (RATIONAL, LINEAR)]
    others = [module for module in order if module.kind not in (RATIONAL, LINEAR)]
    norms = {other.prefix: other.kind for other in module_kinds.decide_kinds(others, own, options)}
    links: list[Layer | Step] = []
    for before, module in zip([None, *order[:-1]], order, strict=True):
        part = Part(tensors, module.prefix)
        if module.kind == LINEAR:
            layer = dataclasses.replace(linear_layer(part), name=module.name)
            if before is not None and before.kind == RATIONAL:
                layer = _with_rational(layer, Part(tensors, before.prefix), below, groups)
            links.append(layer)
        elif module.kind != RATIONAL:
            links.append(module_kinds.step(part, options, norms[module.prefix], module.width))
    used = [value for key, value in tensors.items() if any(key.startswith(module.prefix) for module in order)]
    return chain.chain(links, storage_dtype(used))


def _with_rational(linear: Layer, part: Part, below: str, groups: int | None) -> Layer:
    """The edges of a Linear with a rational function of every source. `below`: the position of the absolute values in
    the denominator. `groups`: the number of groups; None: as many as the file has. Raises InvalidKan or OptionError."""
    numerator, denominator = (_rows(part, name, linear.sources, groups) for name in (ABOVE, BELOW))
    try:
        basis = Rational(numerator, denominator, below)
    except InvalidKan as error:
        raise InvalidKan(f"{part.prefix}*: {error.message}", code=error.code, hint=error.hint) from error
    (identity,) = linear.terms
    assert isinstance(identity, BasisTerm)
    return dataclasses.replace(linear, terms=(BasisTerm(basis, identity.coef),))


def _rows(part: Part, name: str, sources: int, groups: int | None) -> Array:
    """Coefficients of every source [sources, K], from one row, or one row per group."""
    shape = part.shape(name)
    values = part.tensor(name, *((None,) * max(1, min(2, len(shape)))))
    values = values.reshape(-1, values.shape[-1])
    count = len(values)
    if groups is not None and count not in (1, groups):
        raise OptionError(
            f"num_groups is {groups}, but {part.prefix}{name} has {count} rows",
            code="option-does-not-fit-weights",
            hint=f"pass --option num_groups={count}, or remove it",
        )
    if sources % count:
        raise InvalidKan(
            f"{part.prefix}{name} has {count} groups, which do not divide its {sources} channels",
            code="tensor-wrong-shape",
            hint=USE_MODULE,
        )
    return np.repeat(values, sources // count, axis=0)


def _rationals(tensors: Tensors, root: str) -> list[str]:
    """The prefixes under `root` of modules that have a numerator and a denominator."""
    return [prefix for prefix in chain.roots(tensors, ABOVE) if prefix.startswith(root) and prefix + BELOW in tensors]


def _modules(tensors: Tensors, root: str) -> list[OtherModule]:
    """All modules under a prefix, in natural order. Raises FamilyError for an unknown one."""
    rationals = _rationals(tensors, root)
    if not rationals:
        raise InvalidKan(
            f"no {ABOVE} with a {BELOW} found under the prefix {root[:80]!r}",
            code="layers-not-found",
            hint="check --option prefix=KEY_PREFIX",
        )
    linears = [
        key.removesuffix("weight")
        for key, value in tensors.items()
        if key.startswith(root) and f".{key}".endswith(".weight") and len(value.shape) == 2
    ]
    others = module_kinds.other_modules(tensors, OWN, [*rationals, *linears], root)
    own = ((prefix, kind) for kind, prefixes in ((RATIONAL, rationals), (LINEAR, linears)) for prefix in prefixes)
    modules = [*(OtherModule(prefix, kind, 0) for prefix, kind in own), *others]
    return sorted(modules, key=lambda module: natural(module.prefix))


# radon: the faults of an order.
def _order_given(modules: Sequence[OtherModule], options: Options, root: str) -> list[OtherModule]:
    """The order of the user, or an empty list. Raises OptionError."""
    text = options.optional("order")
    if text is None:
        return []
    known = {module.name: module for module in modules} | {module.name.removeprefix(root): module for module in modules}
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    order = [known[name] for name in names if name in known]
    # Modules that are neither a rational function nor a Linear may be left out.
    missing = [module.name for module in modules if module.kind in (RATIONAL, LINEAR) and module not in order]
    fault = ""
    if unknown:
        fault = f"has the unknown name {unknown[0]!r:.80}"
    elif missing:
        fault = f"does not have {missing[0]}"
    elif len(set(names)) < len(names):
        fault = "has a name twice"
    if fault:
        raise OptionError(
            f"option order {fault}",
            code="option-does-not-fit-weights",
            hint="use each of the names once: " + ", ".join(module.name for module in modules),
        )
    _refuse_loose(order)
    return order


def _order_of_names(modules: Sequence[OtherModule], options: Options) -> list[OtherModule]:
    """The order that the names give; it is recorded as assumed. Raises FamilyError if they do not give one."""
    blocks: dict[str, list[OtherModule]] = {}
    for module in modules:
        blocks.setdefault(parent_of(module.prefix), []).append(module)
    parents = sorted(blocks, key=natural)
    # Several parents are accepted if they are numbered blocks that follow one another.
    numbers = [number_of(parent) for parent in parents]
    first = numbers[0] or 0
    one_list = len({re.sub(r"\d+\.$", "", parent) for parent in parents}) == 1
    if len(parents) > 1 and not (one_list and numbers == list(range(first, first + len(parents)))):
        raise FamilyError(
            f"the rational functions and their Linears are in {len(parents)} places: "
            f"{', '.join(repr(parent) for parent in parents[:4])}",
            code="model-ambiguous",
            hint=f"select one with --option prefix={parents[0]}; or, if they follow one another, {GIVE_ORDER}",
        )
    order = []
    for parent in parents:
        numbered = all(module.name.rpartition(".")[2].isdecimal() for module in blocks[parent])
        order += _sequential(blocks[parent]) if numbered else _pairs(blocks[parent])
    _refuse_loose(order)
    names = list(dict.fromkeys(module.name for module in order))
    if len(names) > 1:
        options.assume("order", ",".join(names))
    return order


# radon: the conditions of pairs.
def _pairs(modules: Sequence[OtherModule]) -> list[OtherModule]:
    """Each rational function with the Linear of its number, or the only one of each. Raises FamilyError if there are
    other modules, or if their numbers do not pair."""
    rationals, linears = ([module for module in modules if module.kind == kind] for kind in (RATIONAL, LINEAR))
    by_number = {number_of(module.prefix): module for module in linears}
    paired = 2 * len(rationals) == len(modules) and len(rationals) == len(linears) == len(by_number)
    if paired and len(rationals) == 1:
        return [rationals[0], linears[0]]
    if not paired or None in by_number or {number_of(module.prefix) for module in rationals} != set(by_number):
        names = ", ".join(module.name for module in modules)
        raise FamilyError(f"the file does not record the order of {names}", code="order-not-recorded", hint=GIVE_ORDER)
    ordered = sorted(rationals, key=lambda module: number_of(module.prefix) or 0)
    return [module for before in ordered for module in (before, by_number[number_of(before.prefix)])]


def _sequential(modules: list[OtherModule]) -> list[OtherModule]:
    """Children of a Sequential. KAT has a dropout between a rational function and its Linear; at other places, a
    number without weights can be any module. Raises FamilyError."""
    for before, after in itertools.pairwise(modules):
        if before.prefix == after.prefix:  # one module with the tensors of both
            continue
        gap = (number_of(after.prefix) or 0) - (number_of(before.prefix) or 0) - 1
        dropout = gap == 1 and before.kind == RATIONAL and after.kind == LINEAR
        if gap and not dropout:
            raise FamilyError(
                f"{before.prefix}* is followed by {after.prefix}*; the file does not record the module between them",
                code="order-not-recorded",
                hint=f"if it has no effect at inference, {GIVE_ORDER}",
            )
    return modules


def _refuse_loose(order: Sequence[OtherModule]) -> None:
    """Raises FamilyError for a rational function without a Linear after it: it would be a function of nodes, not of
    edges."""
    for module, following in zip(order, [*order[1:], None], strict=True):
        if module.kind == RATIONAL and (following is None or following.kind != LINEAR):
            what = "nothing" if following is None else f"{following.name} ({following.kind})"
            raise FamilyError(
                f"{module.name} is followed by {what}, expected a Linear after each rational function",
                code="order-not-recorded",
                hint=GIVE_ORDER,
            )
