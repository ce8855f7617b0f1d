"""Closed form of a network with symbolic edges, as text. With numeric edges, a partial form.

An edge contributes mask * (c * f(a * x + b) + d). Sums, products, selections and affine steps are applied to the
text, so that an output is a formula of the inputs alone. Affine values are multiplied out, and straight lines are
merged into the sums that they belong to. A numeric edge has no closed form: it is an error or, in a partial form, a
function with a name (`numeric`).
"""

from __future__ import annotations

import itertools
import keyword
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from kanexport.shared import formula_printer
from kanexport.shared.cli.suggest import advice
from kanexport.shared.formula_printer import FormulaError, Linear, Text, TooLong
from kanexport.shared.manifest import LayerInfo, NodeStep, SymbolicEdge

NODE = re.compile(r"[xyh]\d+(_\d+)?|phi(_\d+)+")
# Functions by name, where the name is not the text: of symbolic edges, and of steps.
TEXTS = {
    **{f"x^{n}": f"x**{n}" for n in (2, 3, 4, 5)},
    **{f"1/x^{n}": f"1/x**{n}" for n in (2, 3, 4, 5)},
    **{name: f"{name}(x)" for name in formula_printer.FUNCTIONS},
    "x": "x",
    "0": "0",
    "1/x": "1/x",
    "x^0.5": "sqrt(x)",
    "x^1.5": "sqrt(x)**3",
    "1/sqrt(x)": "1/sqrt(x)",
    "1/x^0.5": "1/sqrt(x)",
}
STEP_TEXTS = {
    **{name: TEXTS[name] for name in ("tanh", "sin", "cos", "sigmoid")},
    "identity": "x",
    "zero": "0",
    "silu": "x*sigmoid(x)",
    "relu": "x if x > 0 else 0",
    "softplus": "log(1 + exp(x))",
}


@dataclass(frozen=True, slots=True)
class Formula:
    """Formula of one node: `name` = `expression`. Inputs are x0, x1, ..., and outputs are y0, .... Hidden nodes are
    h1_0, ..., by layer, if requested."""

    name: str
    expression: str


def formulas(
    inputs: Sequence[str],
    layers: Sequence[LayerInfo],
    *,
    digits: int,
    outputs: Sequence[str] = (),
    by_layer: bool = False,
    partial: bool = False,
    only: Sequence[str] = (),
) -> tuple[Formula, ...]:
    """Formulas of the outputs in terms of the inputs.

    inputs    names of the inputs
    outputs   names of the outputs
    digits    significant digits
    by_layer  one formula for each node, in terms of the nodes before it
    partial   numeric edges are functions with a name
    only      names of the requested formulas; empty: all

    Raises FormulaError with the first numeric edge unless `partial`, with a step or function without a closed form,
    or with a name in `only` that no formula has.
    """
    if not layers:
        raise FormulaError(
            "the model has no KAN layers in its manifest",
            code="model-without-layers",
            hint="use a model with KAN layers; `kanserve models NAME` lists them",
        )
    called = _called(layers, outputs)
    shown = called if by_layer else {len(layers) - 1: called[len(layers) - 1]}
    _require(only, list(itertools.chain.from_iterable(shown.values())))
    nodes = _atoms(inputs)
    result: list[Formula] = []
    for index, layer in enumerate(layers):
        names = called[index]
        chosen = set((only if index in shown else ()) or names)
        needed = [at for at, name in enumerate(names) if name in chosen]
        nodes = _layer(index, layer, nodes, needed, digits=digits, partial=partial)
        if index in shown:
            result += [Formula(names[at], nodes[at].render(digits).text) for at in needed]
            nodes = _atoms(names)
    return tuple(result)


def _atoms(names: Sequence[str]) -> list[Linear]:
    return [Linear.from_text(Text(name, formula_printer.ATOM)) for name in names]


def _called(layers: Sequence[LayerInfo], outputs: Sequence[str]) -> dict[int, list[str]]:
    """Names of the nodes after each layer."""
    widths = [_width(layer) for layer in layers]
    between = {at: [f"h{at + 1}_{node}" for node in range(width)] for at, width in enumerate(widths[:-1])}
    return between | {len(layers) - 1: list(outputs or tokens((), "y", widths[-1]))}


def _require(only: Sequence[str], known: Sequence[str]) -> None:
    """Raises UnknownLine for a name that no formula has."""
    if missing := [name for name in only if name not in known]:
        raise UnknownLine(missing[0], known)


class UnknownLine(FormulaError):
    """Name that no formula has. `known`: the names of the formulas."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"unknown formula {name[:80]!r}", code="formula-unknown", hint=advice(name, known))
        self.name, self.known = name, tuple(known)


def _layer(
    index: int, layer: LayerInfo, nodes: list[Linear], needed: Sequence[int], *, digits: int, partial: bool
) -> list[Linear]:
    """Expressions of the nodes after a layer; valid for the `needed` ones."""
    if layer.positions:
        raise FormulaError(
            f"layer {index} has no single closed form: it runs at every position of a row",
            code="formula-layer-at-positions",
            hint="plot the curves of its edges instead: `kanserve curves`",
        )
    check(index, layer, partial=partial)
    # A numeric edge is a function of the input node of the layer, after the selection of nodes only.
    seen = _steps(index, [step for step in layer.pre_steps if step.kind == "select"], nodes, digits)
    read = _steps(index, layer.pre_steps, nodes, digits) if layer.symbolic else seen
    sums = _sums(index, layer, (read, seen), _needed(layer, needed), digits)
    return _steps(index, layer.post_steps, sums, digits)


def _width(layer: LayerInfo) -> int:
    """Number of nodes after a layer."""
    width = layer.destinations
    for step in layer.post_steps:
        width = len(step.indices) if step.kind in ("select", "product") else width
    return width


def _needed(layer: LayerInfo, requested: Sequence[int]) -> set[int]:
    """The destinations that some nodes come from."""
    needed = set(requested)
    for step in reversed(layer.post_steps):
        if step.kind == "select":
            needed = {step.indices[at] for at in needed}
        elif step.kind == "product":
            ends = list(itertools.accumulate(step.indices))
            needed = {at for node in needed for at in range(ends[node] - step.indices[node], ends[node])}
    return needed


def tokens(names: Sequence[str], letter: str, count: int) -> list[str]:
    """Names as variables of a formula, with _ for characters that Python does not allow. If a name is not a valid
    and unique variable, all are x0, x1 ..."""
    cleaned = [re.sub(r"\W+", "_", name).strip("_") for name in names]
    odd = {*formula_printer.FUNCTIONS, *formula_printer.CONSTANTS, *keyword.kwlist}
    good = all(token.isidentifier() and token not in odd and not NODE.fullmatch(token) for token in cleaned)
    return cleaned if cleaned and good and len(set(cleaned)) == count else [f"{letter}{at}" for at in range(count)]


def _sums(
    index: int, layer: LayerInfo, nodes: tuple[list[Linear], list[Linear]], needed: set[int], digits: int
) -> list[Linear]:
    """Sums of the edges of a layer, with its bias, for the needed destinations. `nodes`: the values that symbolic edges
    read, and the values that numeric edges read."""
    read, seen = nodes
    symbolic: list[list[SymbolicEdge]] = [[] for _ in range(layer.destinations)]
    for edge in sorted(layer.symbolic, key=lambda edge: edge.source):
        symbolic[edge.destination].append(edge)
    sums = [Linear()] * layer.destinations
    for at in sorted(needed):
        unknown = sources(layer, at)
        parts = [Linear((), layer.bias[at] if layer.bias else 0.0)]
        for edge in symbolic[at]:
            if edge.mask != 0 and edge.source not in unknown:
                parts.append(_edge(index, edge, read[edge.source], digits))
        parts += calls(index, at, [(source, seen[source]) for source in unknown], digits)
        sums[at] = formula_printer.total(parts)
    return sums


def _edge(index: int, edge: SymbolicEdge, node: Linear, digits: int) -> Linear:
    inner = node.affine(edge.a, edge.b)
    text = edge.expression or TEXTS.get(edge.function, "")
    scale, shift = edge.mask * edge.c, edge.mask * edge.d
    where = f"edge ({index},{edge.source},{edge.destination})"
    if not text:
        raise FormulaError(
            f"{where}: unknown function {edge.function!r:.80}",
            code="formula-function-unknown",
            hint="export the model again with --function NAME=EXPRESSION",
        )
    try:
        return _function(text, inner, digits).affine(scale, shift)
    except TooLong:
        raise
    except FormulaError as error:
        raise FormulaError(f"{where}: {error}", code=error.code, hint=error.hint) from error


def _function(text: str, inner: Linear, digits: int) -> Linear:
    """A straight line stays a sum; anything else becomes one text."""
    if text == "x":
        return inner
    if text == "0":
        return Linear()
    return Linear.from_text(formula_printer.applied(text, inner.render(digits), digits))


def _steps(index: int, steps: Sequence[NodeStep], nodes: list[Linear], digits: int) -> list[Linear]:
    for step in steps:
        nodes = _step(index, step, nodes, digits)
    return nodes


# radon: one flat case for each kind of step
def _step(index: int, step: NodeStep, nodes: list[Linear], digits: int) -> list[Linear]:
    match step.kind:
        case "select":
            return [nodes[at] for at in step.indices]
        case "affine":
            numbers = zip(nodes, step.scale, step.bias, strict=True)
            return [_shifted(node, scale, bias, digits) for node, scale, bias in numbers]
        case "standardize":
            numbers = zip(nodes, step.scale, step.bias, strict=True)
            return [_centred(node, offset, scale, digits) for node, scale, offset in numbers]
        case "product":
            rest = iter(nodes)
            return [formula_printer.product([next(rest) for _ in range(count)], digits) for count in step.indices]
        case "clip":
            texts = [
                f"{low!r} if x < {low!r} else ({high!r} if x > {high!r} else x)"
                for low, high in zip(step.scale, step.bias, strict=True)
            ]
            return [_function(text, node, digits) for text, node in zip(texts, nodes, strict=True)]
        case "function" if step.function in STEP_TEXTS:
            return [_function(STEP_TEXTS[step.function], node, digits) for node in nodes]
    what = step.function if step.kind == "function" else step.kind
    raise FormulaError(
        f"layer {index} has a step {what!r:.80} without a closed form",
        code="formula-step-without-closed-form",
        hint="plot the curves of its edges instead: `kanserve curves`",
    )


def _shifted(node: Linear, scale: float, bias: float, digits: int) -> Linear:
    """node * scale + bias. A constant that is many times the scale has as many more digits, because the node would
    otherwise be lost in its rounding."""
    moved = node.affine(scale, bias)
    more = _more_digits(moved.constant, scale)
    if not more or not moved.terms:
        return moved
    constant = formula_printer.number(abs(moved.constant), min(digits + more, formula_printer.EXACT))
    return Linear((*moved.terms, (math.copysign(1.0, moved.constant), constant)))


def _more_digits(constant: float, scale: float) -> int:
    """The count of digits of a constant before those that are comparable with the scale."""
    ratio = abs(constant / scale) if scale else 0.0
    return max(0, math.floor(math.log10(ratio))) if 0 < ratio < math.inf else 0


def _centred(node: Linear, offset: float, scale: float, digits: int) -> Linear:
    """(node - offset) / scale. The difference stays a text by itself, with as many digits of the offset as the scale
    has: multiplied out, a large offset would need more digits than the formula prints."""
    digits = min(digits + _more_digits(offset, scale) + 1, formula_printer.EXACT)
    return Linear.from_text(Linear(node.terms, node.constant - offset).render(digits)).affine(1 / scale, 0.0)


NAME = re.compile(r"\bphi_(\d+)_(\d+)_(\d+)\(")
SHORTEST = len("phi_0_0_0(x0) + ")  # what an edge adds to a formula at least
MIXING = frozenset({"layernorm", "rmsnorm", "groupnorm", "rowrange", "module", "softmax", "log_softmax"})


def sources(layer: LayerInfo, destination: int) -> list[int]:
    """Sources with an edge to a destination that is not purely symbolic."""
    if not layer.bases:
        return []
    return [at for at in range(layer.sources) if not layer.mask or layer.mask[at][destination] != 0]


def named(expressions: Iterable[str]) -> list[tuple[int, int, int]]:
    """The edges [layer, source, destination] that formulas have by name, each once."""
    edges = {edge for expression in expressions for edge in NAME.findall(expression)}
    return sorted((int(layer), int(source), int(destination)) for layer, source, destination in edges)


def check(index: int, layer: LayerInfo, *, partial: bool) -> None:
    """Raises FormulaError for a layer with numeric edges; with `partial`, only if they read more than their sources."""
    first = next(((source, at) for at in range(layer.destinations) for source in sources(layer, at)), None)
    if first is None:
        return
    kinds = ", ".join(basis.kind for basis in layer.bases)
    if not partial:
        source, destination = first
        raise FormulaError(
            f"edge ({index},{source},{destination}) is numeric ({kinds}) and has no closed form",
            code="formula-edge-numeric",
            hint="print numeric edges as named functions with --partial",
        )
    if _mixes(layer):
        raise FormulaError(
            f"the numeric edges of layer {index} ({kinds}) depend on the whole row, not on one node",
            code="formula-edges-of-rows",
            hint="query edge values for rows instead: `kanserve edges`",
        )


def _mixes(layer: LayerInfo) -> bool:
    """True if an edge reads more than its source."""
    steps = (*layer.pre_steps, *(step for basis in layer.bases for step in basis.pre_steps))
    return layer.edge_class == "B" or any(step.kind in MIXING or step.function in MIXING for step in steps)


def calls(index: int, destination: int, nodes: Sequence[tuple[int, Linear]], digits: int) -> Iterator[Linear]:
    """The edges of a destination as calls of named functions, from its sources and their values. Raises TooLong."""
    length = len(nodes) * SHORTEST
    for source, node in nodes:
        if length > formula_printer.LIMIT:
            raise TooLong
        text = Text(f"phi_{index}_{source}_{destination}({node.render(digits).text})", formula_printer.ATOM)
        length += len(text.text) - SHORTEST
        yield Linear.from_text(text)
