"""The closed form of a network whose edges are all symbolic, as text.

An edge contributes mask * (c * f(a * x + b) + d); sums, products, selections and affine steps
are carried out on the text, so that an output is a formula of the inputs alone. Affine values
are multiplied out, and straight lines run into the sums they belong to.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass

from kanexport.manifest import LayerInfo, NodeStep, SymbolicEdge
from kanserve.interpret.terms import ATOM, CONSTANTS, FUNCTIONS, FormulaError, Linear, Text, applied, product, total

NODE = re.compile(r"[xyh]\d+(_\d+)?")
# Functions by name, where the name is not the text: of symbolic edges, and of steps.
TEXTS = {
    **{f"x^{n}": f"x**{n}" for n in (2, 3, 4, 5)},
    **{f"1/x^{n}": f"1/x**{n}" for n in (2, 3, 4, 5)},
    **{name: f"{name}(x)" for name in FUNCTIONS},
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
    """`name` = `expression`. Names are x0, x1, ... for inputs, y0, ... for outputs, and
    h1_0, ... for the nodes between, by layer, where those are asked for."""

    name: str
    expression: str


def formulas(
    inputs: Sequence[str],
    layers: Sequence[LayerInfo],
    *,
    digits: int,
    outputs: Sequence[str] = (),
    by_layer: bool = False,
) -> tuple[Formula, ...]:
    """One formula for each output, of the inputs alone; or, `by_layer`, one for each node, of the nodes before it.
    `inputs` and `outputs`: what they are called. `digits` are significant. Raises FormulaError naming the first numeric
    edge, or the step or function that has no closed form."""
    if not layers:
        raise FormulaError("the model has no KAN layer that is described")
    nodes = [Linear.of(Text(name, ATOM)) for name in inputs]
    between: list[Formula] = []
    for index, layer in enumerate(layers):
        _refuse_numeric(index, layer)
        nodes = _steps(index, layer.before, nodes, digits)
        nodes = _steps(index, layer.after, _sums(index, layer, nodes, digits), digits)
        if by_layer and index < len(layers) - 1:
            names = [f"h{index + 1}_{at}" for at in range(len(nodes))]
            between += _called(names, nodes, digits)
            nodes = [Linear.of(Text(name, ATOM)) for name in names]
    return (*between, *_called(outputs or tokens((), "y", len(nodes)), nodes, digits))


def _called(names: Sequence[str], nodes: Sequence[Linear], digits: int) -> list[Formula]:
    return [Formula(name, node.render(digits).text) for name, node in zip(names, nodes, strict=True)]


def tokens(names: Sequence[str], letter: str, count: int) -> list[str]:
    """What names are called in a formula: themselves where Python would read each as a variable of its own, with _ for
    what it would not, else x0, x1 ..."""
    found = [re.sub(r"\W+", "_", name).strip("_") for name in names]
    odd = {*FUNCTIONS, *CONSTANTS, *keyword.kwlist}
    good = all(token.isidentifier() and token not in odd and not NODE.fullmatch(token) for token in found)
    return found if found and good and len(set(found)) == count else [f"{letter}{at}" for at in range(count)]


def _refuse_numeric(index: int, layer: LayerInfo) -> None:
    if layer.positions:
        raise FormulaError(f"layer {index} runs at every position of a row; there is no single closed form")
    if not layer.bases:
        return
    for source in range(layer.sources):
        for destination in range(layer.destinations):
            if not layer.mask or layer.mask[source][destination] != 0:
                kinds = ", ".join(basis.kind for basis in layer.bases)
                raise FormulaError(
                    f"edge ({index},{source},{destination}) is numeric ({kinds}), so there is no closed form"
                )


def _sums(index: int, layer: LayerInfo, nodes: list[Linear], digits: int) -> list[Linear]:
    """What the edges of a layer add up to, with its bias."""
    incoming: list[list[Linear]] = [[Linear((), bias)] for bias in layer.bias or (0.0,) * layer.destinations]
    for edge in sorted(layer.symbolic, key=lambda edge: edge.source):
        if edge.mask != 0:
            incoming[edge.destination].append(_edge(index, edge, nodes[edge.source], digits))
    return [total(parts) for parts in incoming]


def _edge(index: int, edge: SymbolicEdge, node: Linear, digits: int) -> Linear:
    inner = node.affine(edge.a, edge.b)
    text = edge.expression or TEXTS.get(edge.function, "")
    scale, shift = edge.mask * edge.c, edge.mask * edge.d
    where = f"edge ({index},{edge.source},{edge.destination})"
    if not text:
        raise FormulaError(f"{where}: function {edge.function!r:.80} is not known by name")
    try:
        return _function(text, inner, digits).affine(scale, shift)
    except FormulaError as error:
        raise FormulaError(f"{where}: {error}") from error


def _function(text: str, inner: Linear, digits: int) -> Linear:
    """A straight line stays a sum; anything else becomes one text."""
    if text == "x":
        return inner
    if text == "0":
        return Linear()
    return Linear.of(applied(text, inner.render(digits), digits))


def _steps(index: int, steps: Sequence[NodeStep], nodes: list[Linear], digits: int) -> list[Linear]:
    for step in steps:
        nodes = _step(index, step, nodes, digits)
    return nodes


def _step(index: int, step: NodeStep, nodes: list[Linear], digits: int) -> list[Linear]:
    match step.kind:
        case "select":
            return [nodes[at] for at in step.indices]
        case "affine":
            return [node.affine(a, b) for node, a, b in zip(nodes, step.scale, step.bias, strict=True)]
        case "product":
            return _products(nodes, step.indices, digits)
        case "function" if step.function in STEP_TEXTS:
            return [_function(STEP_TEXTS[step.function], node, digits) for node in nodes]
    what = step.function if step.kind in ("function", "clip") else step.kind
    raise FormulaError(f"layer {index} has a step {what!r:.80}, which has no closed form here")


def _products(nodes: list[Linear], groups: Sequence[int], digits: int) -> list[Linear]:
    """The product of the first nodes, of the next ones, ...; `groups` says how many each."""
    rest = iter(nodes)
    return [product([next(rest) for _ in range(count)], digits) for count in groups]
