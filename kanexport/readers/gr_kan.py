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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.bases import rational
from kanexport.bases.rational import Rational
from kanexport.errors import FamilyError, InvalidKan, OptionError
from kanexport.formats.checkpoint import Checkpoint
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.ir.steps import Step
from kanexport.options import Options
from kanexport.readers.common import chain, module_kinds
from kanexport.readers.common.layer_tensors import Array, Keys, Part, Tensors, linear_layer, natural, storage_dtype
from kanexport.readers.common.order import OtherModule

FAMILY = "gr-kan"
ABOVE, BELOW = "weight_numerator", "weight_denominator"
RATIONAL, LINEAR = "rational", "linear"
OWN = Keys(required={}, optional={ABOVE: 2, BELOW: 2, "weight": 2, "bias": 1})
DENOMINATORS = (
    "1 + |b_1| |x| + .. as the CUDA and Triton kernels have it; or signed, with x^k in the place of |x|^k, as the "
    "pure-torch fallback; or outer, 1 + |b_1 x + ..|, as the paper and other Pade units"
)
GIVE_ORDER = "give it: --option order=act1,fc1,act2,fc2, with the file's own names, from input to output"


@dataclass(frozen=True, slots=True)
class Module:
    """A module of the file: its key prefix ("mlp.act1."), its kind, and its width if it is a step."""

    prefix: str
    kind: str
    width: int = 0

    @property
    def parent(self) -> str:
        """The prefix of the module that has it as a child: "mlp." of "mlp.act1."."""
        return re.sub(r"[^.]*\.$", "", self.prefix)

    @property
    def number(self) -> int | None:
        """The number at the end of its name, if there is one: 1 of "mlp.act1."."""
        digits = re.search(r"(\d+)\.$", self.prefix)
        return int(digits[1]) if digits else None

    @property
    def numbered(self) -> bool:
        """Whether it has a number for a name: a child of a Sequential."""
        return self.name.rpartition(".")[2].isdecimal()

    @property
    def name(self) -> str:
        """The prefix without the dot at its end."""
        return self.prefix.removesuffix(".")


@dataclass(frozen=True, slots=True)
class Settings:
    """The user's settings for all rational functions.

    below   position of the absolute values in their denominators
    groups  number of groups; None: as many as the file has
    """

    below: str
    groups: int | None


def matches(checkpoint: Checkpoint) -> str:
    """The reason why the checkpoint is of this family, or an empty text."""
    prefixes = _rationals(checkpoint.tensors, "")
    return f"{ABOVE} and {BELOW} in {len(prefixes)} module{'s' * (len(prefixes) > 1)}" if prefixes else ""


def read(checkpoint: Checkpoint, options: Options) -> Kan:
    """The rational functions and Linears in their order. Raises FamilyError, InvalidKan or OptionError."""
    tensors, root = checkpoint.tensors, options.optional("prefix") or ""
    modules = _modules(tensors, root)
    order = _order_given(modules, options, root) or _order_of_names(modules, options)
    below = options.choice("denominator", rational.KINDS, "abs", words=DENOMINATORS)
    settings = Settings(below, options.integer("num_groups", at_least=1))
    norms = _norms(order, options)
    links: list[Layer | Step] = []
    for before, module in zip([None, *order[:-1]], order, strict=True):
        part = Part(tensors, module.prefix)
        if module.kind == LINEAR:
            links.append(_edges(before, part, settings))
        elif module.kind != RATIONAL:
            links.append(chain.norm(part, options, norms[module.prefix], module.width))
    used = [value for key, value in tensors.items() if any(key.startswith(module.prefix) for module in order)]
    return chain.chain(links, storage_dtype(used))


def _norms(order: Sequence[Module], options: Options) -> dict[str, str]:
    """The kinds of the modules other than rational functions and Linears. Raises FamilyError or OptionError."""
    own = [module.prefix for module in order if module.kind in (RATIONAL, LINEAR)]
    others = [OtherModule(m.prefix, m.kind, m.width) for m in order if m.kind not in (RATIONAL, LINEAR)]
    return {other.prefix: other.kind for other in module_kinds.decide_kinds(others, own, options)}


def _edges(before: Module | None, linear: Part, settings: Settings) -> Layer:
    """The layer that a Linear makes, with the rational function if one stands before it."""
    if before is None or before.kind != RATIONAL:
        return dataclasses.replace(linear_layer(linear), name=linear.prefix.removesuffix("."))
    return _layer(Part(linear.tensors, before.prefix), linear, settings)


def _layer(module: Part, linear: Part, settings: Settings) -> Layer:
    """A rational function of every source, and the weights of its edges. Raises InvalidKan or OptionError."""
    plain = linear_layer(linear)
    above, below = (_rows(module, name, plain.sources, settings.groups) for name in (ABOVE, BELOW))
    try:
        basis = Rational(above, below, settings.below)
    except InvalidKan as error:
        raise InvalidKan(f"{module.prefix}*: {error.message}", code=error.code, hint=error.hint) from error
    (identity,) = plain.terms
    assert isinstance(identity, BasisTerm)
    name = linear.prefix.removesuffix(".")
    return Layer((BasisTerm(basis, identity.coef),), plain.mask, plain.bias, plain.nan_spreads, name=name)


def _rows(part: Part, name: str, sources: int, groups: int | None) -> Array:
    """Coefficients of every source [sources, K], from one row, or one a group."""
    shape = part.shape(name)
    values = part.tensor(name, *((None,) * max(1, min(2, len(shape)))))
    values = values.reshape(-1, values.shape[-1])
    count = len(values)
    if groups is not None and count not in (1, groups):
        raise OptionError(f"num_groups is {groups}, but {part.prefix}{name} has {count} rows")
    if sources % count:
        raise InvalidKan(
            f"{part.prefix}{name} has {count} groups, which do not divide the {sources} channels it acts on"
        )
    return np.repeat(values, sources // count, axis=0)


def _rationals(tensors: Tensors, root: str) -> list[str]:
    """The prefixes under `root` of modules that have a numerator and a denominator."""
    prefixes = [key.removesuffix(ABOVE) for key in tensors if key.startswith(root) and key.endswith(ABOVE)]
    return [p for p in prefixes if (p == "" or p.endswith(".")) and p + BELOW in tensors]


def _modules(tensors: Tensors, root: str) -> list[Module]:
    """All modules under a prefix, in natural order. Raises FamilyError for one that is not recognised."""
    rationals = _rationals(tensors, root)
    if not rationals:
        raise InvalidKan(f"there is no {ABOVE} with a {BELOW} under the prefix {root[:80]!r}")
    linears = [
        key.removesuffix("weight")
        for key, value in tensors.items()
        if key.startswith(root) and f".{key}".endswith(".weight") and len(value.shape) == 2
    ]
    others = chain.other_modules(tensors, OWN, [*rationals, *linears], root)
    modules = [Module(prefix, RATIONAL) for prefix in rationals] + [Module(prefix, LINEAR) for prefix in linears]
    modules += [Module(other.prefix, other.kind, other.width) for other in others]
    return sorted(modules, key=lambda module: natural(module.prefix))


def _order_given(modules: Sequence[Module], options: Options, root: str) -> list[Module]:
    """The user's order, or an empty list. Raises OptionError."""
    text = options.optional("order")
    if text is None:
        return []
    known = {module.name: module for module in modules} | {module.name.removeprefix(root): module for module in modules}
    names = [name.strip() for name in text.split(",")]
    fault = _fault(names, known, modules)
    if fault:
        raise OptionError(f"option order {fault}", hint="the file has " + ", ".join(module.name for module in modules))
    order = [known[name] for name in names]
    _refuse_loose(order)
    return order


def _fault(names: Sequence[str], known: Mapping[str, Module], modules: Sequence[Module]) -> str:
    """The fault of an order of these names, or an empty text. Modules that are no
    rational and no Linear may be left out."""
    unknown = [name for name in names if name not in known]
    if unknown:
        return f"names {unknown[0]!r:.80}"
    chosen = [known[name] for name in names]
    missing = [module.name for module in modules if module.kind in (RATIONAL, LINEAR) and module not in chosen]
    if missing:
        return f"leaves out {missing[0]}"
    return "names one twice" if len(set(names)) < len(names) else ""


def _order_of_names(modules: Sequence[Module], options: Options) -> list[Module]:
    """The order that the names tell; it is recorded as assumed.
    Raises FamilyError where they tell none."""
    blocks: dict[str, list[Module]] = {}
    for module in modules:
        blocks.setdefault(module.parent, []).append(module)
    parents = sorted(blocks, key=natural)
    _refuse_apart(parents)
    order = [module for parent in parents for module in _block(blocks[parent])]
    _refuse_loose(order)
    names = list(dict.fromkeys(module.name for module in order))
    if len(names) > 1:
        options.assumed["order"] = ",".join(names)
    return order


def _refuse_apart(parents: Sequence[str]) -> None:
    """More than one parent is fine where they are numbered blocks that follow one another."""
    numbers = [Module(parent, "").number for parent in parents]
    first = numbers[0] or 0
    one_list = len({re.sub(r"\d+\.$", "", parent) for parent in parents}) == 1
    if len(parents) > 1 and not (one_list and numbers == list(range(first, first + len(parents)))):
        raise FamilyError(
            f"rational functions and what goes with them lie in {len(parents)} places: "
            f"{', '.join(repr(parent) for parent in parents[:4])}",
            hint=f"choose one with --option prefix={parents[0]}, or, if they follow one another, {GIVE_ORDER}",
        )


def _block(modules: list[Module]) -> list[Module]:
    """The order of the modules of one parent. Raises FamilyError where their names tell none."""
    if all(module.numbered for module in modules):
        return _sequential(modules)
    pairs = _pairs(modules)
    if not pairs:
        names = ", ".join(module.name for module in modules)
        raise FamilyError(f"the file does not tell in which order {names} follow", hint=GIVE_ORDER)
    return [module for pair in pairs for module in pair]


def _of_kind(modules: Sequence[Module], kind: str) -> list[Module]:
    return [module for module in modules if module.kind == kind]


def _pairs(modules: Sequence[Module]) -> list[tuple[Module, Module]]:
    """Each rational with the Linear of its number, or the only one of each; empty where there is
    anything else, or their numbers do not pair."""
    rationals, linears = _of_kind(modules, RATIONAL), _of_kind(modules, LINEAR)
    by_number = {module.number: module for module in linears}
    if 2 * len(rationals) != len(modules) or not len(rationals) == len(linears) == len(by_number):
        return []
    if len(rationals) == 1:
        return [(rationals[0], linears[0])]
    if None in by_number or {module.number for module in rationals} != set(by_number):
        return []
    return [(module, by_number[module.number]) for module in sorted(rationals, key=lambda m: m.number or 0)]


def _sequential(modules: list[Module]) -> list[Module]:
    """Children of a Sequential. Between a rational and its Linear, KAT has a dropout; elsewhere a
    number without weights may be anything. Raises FamilyError."""
    for before, after in itertools.pairwise(modules):
        if before.prefix == after.prefix:  # one module with the tensors of both
            continue
        gap = (after.number or 0) - (before.number or 0) - 1
        dropout = gap == 1 and before.kind == RATIONAL and after.kind == LINEAR
        if gap and not dropout:
            raise FamilyError(
                f"{before.prefix}* is followed by {after.prefix}*; the file does not tell what stands between",
                hint=f"if it does nothing at inference, {GIVE_ORDER}",
            )
    return modules


def _refuse_loose(order: Sequence[Module]) -> None:
    """A rational without a Linear after it would be a function of nodes, and of no edge."""
    for module, following in zip(order, [*order[1:], None], strict=True):
        if module.kind == RATIONAL and (following is None or following.kind != LINEAR):
            what = "nothing" if following is None else f"{following.name} ({following.kind})"
            raise FamilyError(
                f"{module.name} is followed by {what}; a rational function is read with the Linear after it",
                hint=GIVE_ORDER,
            )
