"""The data flow between the layers of a file: a chain by default, or the flow that the user or recorded outputs give.

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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kanexport.errors import FamilyError, OptionError
from kanexport.functions import elementwise
from kanexport.ir.model import BasisTerm, Layer, SymbolicEdge
from kanexport.ir.norms import LayerNorm, Softmax
from kanexport.ir.steps import Affine, Elementwise, Step
from kanexport.options import EPSILONS, Options
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
class Link:
    """A module at its place in the network: its key prefix, its kind unless it is a layer, and its function."""

    name: str
    kind: str
    item: Layer | Step

    @property
    def shown(self) -> str:
        """The name in the manifest: "layers.0", or "ln1 (layernorm)"."""
        return (self.name.removesuffix(".") or "one layer") + (f" ({self.kind})" if self.kind else "")


def compose(links: Sequence[Link], missing: Sequence[tuple[str, str]], options: Options) -> list[Layer | Step]:
    """The network of modules in this order, with `missing` functions between some of them, and with the data flow of
    the options. Facts that the options do not give are recorded as assumed. Raises OpenQuestion if a missing
    function is not given, FamilyError if a flow does not fit, OptionError."""
    options.assume("architecture", "")  # before its parts
    how = _flow(links, missing, options)
    between = _between(links, missing, options)
    before, after = (_function(key, among, options) for key, among in (("before", BEFORE), ("after", AFTER)))
    options.assumed["architecture"] = _architecture_text(links, how, between)
    options.words["architecture"] = OTHERWISE
    if how == "parallel":
        items: list[Layer | Step] = [_sum(_layers(links))]
    else:
        ordered = list(reversed(links)) if how == "reversed" else _repeated(links, REPEATS.get(how, 1))
        items = _filled(ordered, missing, between, options)
    first, last = _sides(items)
    items = [*_made(before, first, options), *items, *_made(after, last, options)]
    return _skipping(items, inside=how == "residual-inside") if how in SKIPS else items


def _architecture_text(links: Sequence[Link], how: str, between: str) -> str:
    """The architecture as text."""
    names = ", ".join(link.shown for link in links)
    if len(links) == 1 and how == CHAIN:
        return f"{names} alone"
    if how != CHAIN:
        return f"{names} as flow={how}" + ("" if between == NOTHING else f", {between} between")
    nothing = "nothing else between" if any(link.kind for link in links) else "nothing between"
    return f"{names} one after the other, {nothing if between == NOTHING else f'{between} between'}"


def _layers(links: Sequence[Link]) -> list[Layer]:
    return [link.item for link in links if isinstance(link.item, Layer)]


def _flow(links: Sequence[Link], missing: Sequence[tuple[str, str]], options: Options) -> str:
    """One of FLOWS. Raises FamilyError or OptionError."""
    fitting = _fitting(links, bool(missing))
    value = _chosen_flow(links, fitting, options)
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


def _chosen_flow(links: Sequence[Link], fitting: tuple[str, ...], options: Options) -> str:
    """The flow of the user, or a chain if the layers make one. Raises OpenQuestion."""
    decided = not fitting or options.optional("flow") is not None
    recurrent = [link.name for link in links if RECURRENT.search(link.name)]
    if recurrent and not decided:
        words = (
            f"{', '.join(recurrent[:4])} have names of a recurrent cell, which the exporter reads only with --module"
        )
        return must(options, "flow", fitting, words, GIVE_MODULE)
    if decided or CHAIN in fitting:
        return options.text("flow", CHAIN, among=fitting).lower()
    sides = ", ".join(
        f"{link.shown} ({link.item.sources} to {link.item.destinations})"
        for link in links
        if isinstance(link.item, Layer)
    )
    return must(options, "flow", fitting, f"the layers {sides} do not follow one another", GIVE_ARCHITECTURE)


def _fitting(links: Sequence[Link], missing: bool) -> tuple[str, ...]:
    """The flows that the widths of the layers allow and that a KAN of layers can express."""
    layers = _layers(links)
    flows: list[str] = []
    if _follow(layers):
        flows = [CHAIN, *_skips(layers, len(links)), *([] if missing else _repeats(layers))]
    if len(layers) > 1:
        flows += ["parallel"] if len(layers) == len(links) and _same_sides(layers) else []
        flows += ["reversed"] if _follow(layers[::-1]) and not missing else []
    return tuple(name for name in FLOWS if name in flows)


def _follow(layers: Sequence[Layer]) -> bool:
    """Whether each layer has as many sources as the one before has destinations."""
    return all(a.destinations == b.sources for a, b in itertools.pairwise(layers))


def _skips(layers: Sequence[Layer], modules: int) -> tuple[str, ...]:
    """The sums with the input of a layer. A sum within a layer needs a module before one of the layers."""
    if not any(map(_skippable, _square(layers))):
        return ()
    return SKIPS if modules > 1 else SKIPS[:1]


def _repeats(layers: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(REPEATS) if _square(layers) else ()


def _square(layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in layers if layer.sources == layer.destinations]


def _same_sides(layers: Sequence[Layer]) -> bool:
    """Whether the layers can be added to one: the same nodes on both sides, and no steps."""
    sides = {(layer.sources, layer.destinations) for layer in layers}
    return len(sides) == 1 and not any(layer.pre_steps or layer.post_steps for layer in layers)


def _between(links: Sequence[Link], missing: Sequence[tuple[str, str]], options: Options) -> str:
    """The function between layers. Raises OpenQuestion or OptionError."""
    layers = len(_layers(links))
    inner = [link for link in _inner(links) if link.kind]
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
    return _function("between", among, options) if layers > 1 else NOTHING


def _inner(links: Sequence[Link]) -> Sequence[Link]:
    """The modules between the first layer and the last."""
    places = [at for at, link in enumerate(links) if isinstance(link.item, Layer)]
    return links[places[0] : places[-1]]


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


def _sides(items: Sequence[Layer | Step]) -> tuple[int, int]:
    """The nodes before the first layer and after the last."""
    layers = [item for item in items if isinstance(item, Layer)]
    return layers[0].sources, layers[-1].destinations


def _repeated(links: Sequence[Link], times: int) -> list[Link]:
    """Each layer with as many sources as destinations, repeated that many times."""
    return [
        link
        for link in links
        for _ in range(times if isinstance(link.item, Layer) and link.item.sources == link.item.destinations else 1)
    ]


def _filled(
    links: Sequence[Link], missing: Sequence[tuple[str, str]], between: str, options: Options
) -> list[Layer | Step]:
    """The links with the function at each of its places."""
    items: list[Layer | Step] = []
    width = _sides([link.item for link in links])[0]
    stand = _stands(links, missing, early=between.endswith(THEN_NORM))
    for at, link in enumerate(links):
        if at in stand:
            items += _made(between.removesuffix(THEN_NORM), width, options)
        items.append(link.item)
        width = link.item.destinations if isinstance(link.item, Layer) else width
    return items


def _stands(links: Sequence[Link], missing: Sequence[tuple[str, str]], *, early: bool) -> set[int]:
    """The links that the function precedes: those with a missing module before them, otherwise all layers except the
    first, or (`early`) the link after each layer except the last."""
    if missing:
        late = {after for _, after in missing}
        return {at for at, link in enumerate(links) if link.name in late}
    places = [at for at, link in enumerate(links) if isinstance(link.item, Layer)]
    return {at + 1 for at in places[:-1]} if early else set(places[1:])


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
        square = item.sources == item.destinations and _skippable(item)
        if square and inside:
            item = _with_steps(item, tuple(waiting))
        else:
            result += waiting
        waiting = []
        result.append(_with_skip(item) if square else item)
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


def _with_skip(layer: Layer) -> Layer:
    scale = np.ones(layer.destinations)
    for step in layer.post_steps:
        assert isinstance(step, Affine)
        scale = scale * step.scale
    line = elementwise.symbolic("x")
    edges = tuple(SymbolicEdge(at, at, line, 1.0, 0.0, 1 / float(s), 0.0, 1.0) for at, s in enumerate(scale))
    return dataclasses.replace(layer, symbolic=edges)


def _sum(layers: Sequence[Layer]) -> Layer:
    """Layers of the same sources and destinations as one, with the sums of their edges."""
    return dataclasses.replace(
        layers[0],
        terms=tuple(term for layer in layers for term in layer.terms),
        bias=np.sum([layer.bias for layer in layers], axis=0),
        nan_spreads=np.any([layer.nan_spreads for layer in layers], axis=0),
    )
