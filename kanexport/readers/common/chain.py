"""Assembly of a network from single layers and the steps between them, and the data flow through them.

The order of the layers is in `readers/common/order.py`, what a module beside them is in
`readers/common/module_kinds.py`. The flow is a chain by default, or the flow that the user or recorded outputs give.

flow      chain; residual, x + layer(x) where a layer has as many sources as destinations;
          residual-inside, where what stands before such a layer is inside of the sum;
          parallel, the sum of all layers; reversed; repeat:N, each square layer N times
between   a function without tensors before every layer but the first
before    one before the first layer
after     one after the last layer
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.errors import USE_MODULE, FamilyError, InvalidKan, OptionError
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Kan, Layer, SymbolicEdge
from kanexport.ir.norms import LayerNorm
from kanexport.ir.steps import Affine, Elementwise, Softmax, Step
from kanexport.options import EPSILONS, Options
from kanexport.readers.common.layer_tensors import Keys, Part, Tensors, natural
from kanexport.readers.common.order import GIVE_ARCHITECTURE, GIVE_MODULE, must
from kanexport.shared.cli.suggest import advice

NOTHING, CHAIN = "nothing", "chain"
# Functions that published networks have between layers, before them and after them: these are tried.
BETWEEN = ("tanh", "relu", "silu", "gelu", "sigmoid", "layernorm")
THEN = "-then-"  # joins the names of functions without tensors that run one after the other
JOINED = tuple(f"layernorm{THEN}{name}" for name in ("silu", "gelu", "relu", "tanh"))
BEFORE = ("tanh", "sigmoid", "layernorm")
AFTER = ("sigmoid", "tanh", "relu", "softmax", "log_softmax")
THEN_NORM = "-then-norm"  # the function stands before the norm, not after it
SKIPS = ("residual", "residual-inside")
REPEATS = {"repeat:2": 2, "repeat:3": 3}
FLOWS = (CHAIN, *SKIPS, "parallel", "reversed", *REPEATS)
REST = f"for other flows, such as branches, gates, concatenations and recurrence, {GIVE_MODULE}"
OTHERWISE = "or with branches, gates, concatenations or recurrence over time, which need --module"
# Parts of names of the modules of a recurrent cell.
RECURRENT = re.compile(r"(^|[._])(rnn|lstm|gru|\w*cell|h2h|hh|recurrent)(?=[._\d]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LayerKind:
    """A kind of layers that a reader module reads, one of several in its FAMILIES."""

    FAMILY: str
    KEYS: Keys
    layer: Callable[[Part, Options], Layer]
    fits: Callable[[Part], bool] | None = None  # only where shapes must tell


def roots(tensors: Tensors, name: str) -> list[str]:
    """The prefixes of all modules that have a tensor `name`."""
    return [key.removesuffix(name) for key in tensors if f".{key}".endswith(f".{name}")]


def prefixes(tensors: Tensors, keys: Keys, root: str = "") -> list[str]:
    """Prefixes under `root` with all required tensors, in natural order."""
    candidates = [prefix for prefix in roots(tensors, next(iter(keys.required))) if prefix.startswith(root)]
    return sorted((prefix for prefix in candidates if Part(tensors, prefix).matches(keys)), key=natural)


def only_root(tensors: Tensors, known: Sequence[str], mark: str, options: Options) -> str:
    """The prefix of a whole network in a file: the only one of those `known`, or the one of the option `prefix`.
    `mark`: the tensor that is under each of them. Raises FamilyError if the file has more than one network, or other
    tensors, and the user gave no prefix."""
    prefix = options.optional("prefix")
    fitting = [root for root in known if root == prefix] or [root for root in known if root.startswith(prefix or "")]
    if len(fitting) != 1:
        listed = ", ".join(repr(root) for root in known[:6]) or "none"
        raise FamilyError(
            f"{mark} occurs under {len(known)} prefixes: {listed}",
            code="model-ambiguous",
            hint="select one with --option prefix=KEY_PREFIX",
        )
    (root,) = fitting
    others = [key for key in tensors if not key.startswith(root)]
    if others and prefix is None:
        raise FamilyError(
            f"the file has a KAN under {root!r} and tensors of other modules, such as {others[0]!r}",
            code="other-modules-in-file",
            hint=f"export the KAN by itself with --option prefix={root}, or the whole module with --module",
        )
    return root


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


@dataclass(frozen=True, slots=True)
class Link:
    """A module at its place in the network: its key prefix, its kind unless it is a layer, and its function."""

    name: str
    kind: str
    item: Layer | Step

    @property
    def shown(self) -> str:
        """The name in the manifest: "layers.0", or "ln1 (layernorm)"."""
        return (self.name.removesuffix(".") or "one layer") + (f" ({self.kind})" if self.kind else "")


# radon: the facts of a flow, in the order in which they are assumed.
def compose(links: Sequence[Link], missing: Sequence[tuple[str, str]], options: Options) -> list[Layer | Step]:
    """The network of modules in this order, with `missing` functions between some of them, and with the data flow of
    the options. Facts that the options do not give are recorded as assumed. Raises OpenQuestion if a missing
    function is not given, FamilyError if a flow does not fit, OptionError."""
    options.assume("architecture", "")  # before its parts
    how = _flow(links, missing, options)
    between = _between(links, missing, options)
    before, after = (_function(key, among, options) for key, among in (("before", BEFORE), ("after", AFTER)))
    names = ", ".join(link.shown for link in links)
    if how != CHAIN:
        text = f"{names} as flow={how}" + ("" if between == NOTHING else f", {between} between")
    elif len(links) == 1:
        text = f"{names} alone"
    else:
        nothing = "nothing else between" if any(link.kind for link in links) else "nothing between"
        text = f"{names} one after the other, {nothing if between == NOTHING else f'{between} between'}"
    options.assume("architecture", text, words=OTHERWISE)
    if how == "parallel":
        together = _layers(links)
        layer = dataclasses.replace(
            together[0],
            terms=tuple(term for layer in together for term in layer.terms),
            bias=np.sum([layer.bias for layer in together], axis=0),
            nan_spreads=np.any([layer.nan_spreads for layer in together], axis=0),
        )
        items: list[Layer | Step] = [layer]
    else:
        ordered = list(reversed(links)) if how == "reversed" else list(links)
        if how in REPEATS:
            ordered = [link for link in links for _ in range(REPEATS[how] if _square(link.item) else 1)]
        items = _filled(ordered, missing, between, options)
    layers = [item for item in items if isinstance(item, Layer)]
    items = [*_made(before, layers[0].sources, options), *items, *_made(after, layers[-1].destinations, options)]
    return _skipping(items, inside=how == "residual-inside") if how in SKIPS else items


def _layers(links: Sequence[Link]) -> list[Layer]:
    return [link.item for link in links if isinstance(link.item, Layer)]


# radon: one case for each way to decide.
def _flow(links: Sequence[Link], missing: Sequence[tuple[str, str]], options: Options) -> str:
    """One of FLOWS: the flow of the user, or a chain if the layers make one. Raises OpenQuestion, FamilyError or
    OptionError."""
    fitting = _fitting(links, bool(missing))
    decided = not fitting or options.optional("flow") is not None
    recurrent = [link.name for link in links if RECURRENT.search(link.name)]
    if recurrent and not decided:
        words = (
            f"{', '.join(recurrent[:4])} have names of a recurrent cell, which the exporter reads only with --module"
        )
        value = must(options, "flow", fitting, words, GIVE_MODULE)
    elif decided or CHAIN in fitting:
        value = options.text("flow", CHAIN, among=fitting).lower()
    else:
        sides = ", ".join(
            f"{link.shown} ({link.item.sources} to {link.item.destinations})"
            for link in links
            if isinstance(link.item, Layer)
        )
        value = must(options, "flow", fitting, f"the layers {sides} do not follow one another", GIVE_ARCHITECTURE)
    if value not in FLOWS:
        raise OptionError(
            f"option flow is {value[:80]!r}, expected one of {len(FLOWS)} names",
            code="option-value-unknown",
            hint=advice(value, FLOWS, what="available"),
        )
    if value != CHAIN and value not in fitting:
        raise FamilyError(
            f"flow={value} does not fit the layers of this file", code="option-does-not-fit-weights", hint=REST
        )
    others = [name for name in fitting if name != value] or ["residual, parallel or in another order"]
    options.words["flow"] = f"or {', '.join(others)}"
    return value


# radon: the conditions of each flow.
def _fitting(links: Sequence[Link], missing: bool) -> tuple[str, ...]:
    """The flows that the widths of the layers allow and that a KAN of layers can express."""
    layers = _layers(links)
    flows: list[str] = []
    if _follow(layers):
        flows = [CHAIN]
        if any(_square(layer) and _skippable(layer) for layer in layers):
            flows += SKIPS if len(links) > 1 else SKIPS[:1]  # a sum within a layer needs a module before one of them
        if any(map(_square, layers)) and not missing:
            flows += REPEATS
    if len(layers) > 1:
        sides = {(layer.sources, layer.destinations) for layer in layers}
        stepless = not any(layer.pre_steps or layer.post_steps for layer in layers)
        if len(layers) == len(links) and len(sides) == 1 and stepless:
            flows.append("parallel")
        if _follow(layers[::-1]) and not missing:
            flows.append("reversed")
    return tuple(name for name in FLOWS if name in flows)


def _follow(layers: Sequence[Layer]) -> bool:
    """Whether each layer has as many sources as the one before has destinations."""
    return all(a.destinations == b.sources for a, b in itertools.pairwise(layers))


def _square(item: Layer | Step) -> bool:
    """Whether it is a layer with as many sources as destinations."""
    return isinstance(item, Layer) and item.sources == item.destinations


def _between(links: Sequence[Link], missing: Sequence[tuple[str, str]], options: Options) -> str:
    """The function between layers. Raises OpenQuestion or OptionError."""
    places = [at for at, link in enumerate(links) if isinstance(link.item, Layer)]
    inner = any(link.kind for link in links[places[0] : places[-1]])
    among = (*BETWEEN, *(name + THEN_NORM for name in BETWEEN[:-1] if inner and not missing), *JOINED)
    if missing:
        before, after = missing[0]
        return must(
            options,
            "between",
            (NOTHING, *among),
            f"{before}* is followed by {after}*; the file does not record the function between them",
            f"export the layers one by one with --option prefix=KEY_PREFIX; or {GIVE_ARCHITECTURE}",
        )
    return _function("between", among, options) if len(places) > 1 else NOTHING


def _function(key: str, among: tuple[str, ...], options: Options) -> str:
    """The name of a function without tensors, "nothing" by default. Raises OptionError."""
    value = options.text(key, NOTHING, among=(NOTHING, *among)).lower()
    known = (NOTHING, "layernorm", "softmax", "log_softmax", *elementwise.ACTIVATIONS, *among)
    if value not in known:
        raise OptionError(
            f"option {key} is {value[:80]!r}, expected the name of a function",
            code="option-value-unknown",
            hint=advice(value, known, what="available"),
        )
    return value


def without_tensors(name: str, width: int, options: Options) -> Step:
    """A function of all nodes without tensors: a LayerNorm without weights, softmax or an activation. Raises
    UnknownFunction or OptionError."""
    if name == "layernorm":
        epsilon = options.number("layernorm_eps", EPSILONS[0], among=EPSILONS)
        return LayerNorm(np.ones(width), np.zeros(width), epsilon)
    if name in ("softmax", "log_softmax"):
        return Softmax(log=name == "log_softmax")
    return Elementwise(elementwise.activation(name))


def _made(name: str, width: int, options: Options) -> list[Layer | Step]:
    return [without_tensors(part, width, options) for part in name.split(THEN) if part != NOTHING]


def _filled(
    links: Sequence[Link], missing: Sequence[tuple[str, str]], between: str, options: Options
) -> list[Layer | Step]:
    """The links with the function at each of its places: before those with a missing module before them, otherwise
    before all layers except the first, or right after each layer except the last if a norm follows the function."""
    places = [at for at, link in enumerate(links) if isinstance(link.item, Layer)]
    stand = {at + 1 for at in places[:-1]} if between.endswith(THEN_NORM) else set(places[1:])
    if missing:
        late = {after for _, after in missing}
        stand = {at for at, link in enumerate(links) if link.name in late}
    items: list[Layer | Step] = []
    width = _layers(links)[0].sources
    for at, link in enumerate(links):
        if at in stand:
            items += _made(between.removesuffix(THEN_NORM), width, options)
        items.append(link.item)
        width = link.item.destinations if isinstance(link.item, Layer) else width
    return items


def _skippable(layer: Layer) -> bool:
    """Whether its input can be added as edges: the steps after its sums only scale them."""
    return all(isinstance(step, Affine) and bool(step.scale.all()) for step in layer.post_steps) and not layer.symbolic


def _skipping(items: Sequence[Layer | Step], *, inside: bool) -> list[Layer | Step]:
    """Square layers with their inputs added, as a straight line on the edge from a node to itself. `inside`: the sum
    spans the steps right before the layer, which then apply to its terms only."""
    result: list[Layer | Step] = []
    waiting: list[Step] = []
    for item in items:
        if not isinstance(item, Layer):
            waiting.append(item)
            continue
        square = _square(item) and _skippable(item)
        if square and inside:
            item = _with_steps(item, tuple(waiting))
        else:
            result += waiting
        waiting = []
        if square:
            scales = [step.scale for step in item.post_steps if isinstance(step, Affine)]
            scale = np.prod([np.ones(item.destinations), *scales], axis=0)
            line = elementwise.symbolic("x")
            edges = tuple(SymbolicEdge(at, at, line, 1.0, 0.0, 1 / float(s), 0.0, 1.0) for at, s in enumerate(scale))
            item = dataclasses.replace(item, symbolic=edges)
        result.append(item)
    return [*result, *waiting]


def _with_steps(layer: Layer, steps: tuple[Step, ...]) -> Layer:
    """The layer with steps before its terms. Raises FamilyError for a term that cannot have steps."""
    terms = []
    for term in layer.terms:
        if not isinstance(term, BasisTerm):
            raise FamilyError(
                f"flow=residual-inside does not fit {term.kind}, which cannot have separate steps",
                code="option-does-not-fit-weights",
                hint=REST,
            )
        terms.append(dataclasses.replace(term, pre_steps=(*steps, *term.pre_steps)))
    return dataclasses.replace(layer, terms=tuple(terms))
