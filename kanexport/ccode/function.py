"""C of one function, from the node of its result.

Every value that takes memory is an array on the stack. Arrays whose lifetimes do not overlap share memory. A function
of elements is part of the expression that reads it, unless it would be computed more than once and is not cheap.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kanexport.ccode.nodes import (
    ORIGIN,
    Constant,
    Flat,
    Given,
    Index,
    Indices,
    Joined,
    Mapped,
    Node,
    Product,
    Reduced,
    Selected,
    Shape,
    Splines,
    View,
)
from kanexport.ccode.tables import Tables

LONGEST = 60  # additions of one expression
CHEAP, REPEATED = 2, 4  # additions that are repeated: of several uses, and in an inner loop
TYPES = {"float": "float", "int": "int", "bool": "unsigned char"}
BYTES = {"float": 4, "int": 4, "unsigned char": 1}
MARK = re.compile(r"@(\d+)@")  # a buffer that has no memory yet
HELPER = re.compile(r"@([a-z_]+\d*)\(")
LETTERS = "ijklmnpq"

Routine = Callable[[Splines], str]  # the name of the C function of some splines


@dataclass(slots=True)
class Buffer:
    """Value in memory, with the numbers of the statements that write it first and read it last."""

    type: str
    size: int
    first: int
    last: int


@dataclass(slots=True, eq=False)
class FunctionWriter:
    """Writer of one function.

    tables   constants of the file
    helpers  names of the helpers that the file needs; the writer adds its own
    prefix   of all names of the file
    routine  gives the name of the C function that computes some splines
    """

    tables: Tables
    helpers: set[str]
    prefix: str
    routine: Routine
    _lines: list[str] = field(default_factory=list)
    _depth: int = 1
    _places: dict[Node, str] = field(default_factory=dict)
    _uses: dict[Node, int] = field(default_factory=dict)
    _buffers: list[Buffer] = field(default_factory=list)
    _step: int = 0

    def body(self, result: Node, name: str) -> tuple[list[str], int]:
        """The statements that store `result` to the array `name`, and the bytes of their arrays on the stack."""
        self._uses = _uses(result)
        self._store(result, name)
        slots = _slots(self._buffers)
        memory = list(dict.fromkeys(slots))
        sizes = [
            max(buffer.size for buffer, own in zip(self._buffers, slots, strict=True) if own == slot) for slot in memory
        ]
        names = [f"{'fiu'[list(BYTES).index(type_)]}{number}" for type_, number in slots]
        declared = [
            f"    {slot[0]} {names[slots.index(slot)]}[{size}];" for slot, size in zip(memory, sizes, strict=True)
        ]
        lines = [MARK.sub(lambda mark: names[int(mark[1])], line) for line in self._lines]
        return declared + lines, sum(size * BYTES[slot[0]] for slot, size in zip(memory, sizes, strict=True))

    # Expressions

    def _text(self, node: Node, index: Indices) -> str:
        """C of one element."""
        if node in self._places:
            return f"{self._read(node)}[{_linear(node.shape, index)}]"
        if isinstance(node, Constant):
            return self.tables.element(node.array, index)
        if isinstance(node, Mapped):
            texts = (self._text(value, _broadcast(value.shape, index)) for value in node.values)
            return self._helped(node.template.format(*texts))
        if isinstance(node, Selected):
            own = index[node.axis : node.axis + len(node.indices.shape)]
            at = Index.of(self.tables.element(node.indices.array, own))
            return self._text(node.value, (*index[: node.axis], at, *index[node.axis + len(own) :]))
        if isinstance(node, View):
            return self._text(node.value, node.place(index))
        value = node
        while isinstance(value, Flat):
            value = value.value
        return f"{self._read(value)}[{_linear(node.shape, index)}]"

    def _read(self, node: Node) -> str:
        """The array that holds a value."""
        if isinstance(node, Given):
            return node.name
        name = self._places[node]
        for mark in MARK.finditer(name):
            self._buffers[int(mark[1])].last = self._step
        return name

    def _helped(self, text: str) -> str:
        def name(match: re.Match[str]) -> str:
            self.helpers.add(match[1])
            return f"{self.prefix}_{match[1]}("

        return HELPER.sub(name, text)

    # Which values take memory

    def _prepare(self, node: Node, repeat: int = 1) -> None:
        """Store what the expression of a node reads, and the node if it is better stored. `repeat`: how often each
        element is computed."""
        if node in self._places or isinstance(node, Constant | Given):
            return
        if isinstance(node, Flat) and not isinstance(node.value, Flat):
            self._prepare_stored(node.value)
            return
        if isinstance(node, Flat | View | Selected):
            self._prepare(node.value, repeat)
            return
        cost = self._cost(node)
        several = (self._uses.get(node, 1) - 1) * cost
        worth = cost > LONGEST or several > CHEAP or (repeat > 1 and cost >= REPEATED)
        if not isinstance(node, Mapped) or worth:
            self._store(node)
            return
        for value in node.values:
            self._prepare(value, repeat * max(1, node.size // max(1, value.size)))

    def _prepare_stored(self, node: Node) -> None:
        if not isinstance(node, Given) and node not in self._places:
            self._store(node)

    def _cost(self, node: Node) -> int:
        """Additions of an element that is not in memory."""
        if node in self._places or not isinstance(node, Mapped | View):
            return 0
        own = node.cost if isinstance(node, Mapped) else 0
        return own + sum(self._cost(value) for value in node.operands)

    # Statements

    def _store(self, node: Node, name: str = "") -> None:
        """Write a value to memory: a new buffer, or the array `name`."""
        for value in node.operands:
            self._prepare_operand(node, value)
        self._step += 1
        if not name:
            name = f"@{len(self._buffers)}@"
            self._buffers.append(Buffer(TYPES[node.kind], node.size, self._step, self._step))
        if isinstance(node, Reduced):
            self._reduced(node, name)
        elif isinstance(node, Product):
            self._loop((*node.shape[:-1], 1), lambda index: self._row(node, name, index[:-1]), block=True)
        elif isinstance(node, Joined):
            self._joined(node, name)
        elif isinstance(node, Splines):
            self._splines(node, name)
        else:
            self._elements(node, name)
        self._places[node] = name

    def _prepare_operand(self, node: Node, value: Node) -> None:
        if isinstance(node, Flat) or (isinstance(node, Splines) and value is node.value):
            self._prepare_stored(value)
            return
        repeat = 1
        if isinstance(node, Mapped):
            repeat = max(1, node.size // max(1, value.size))
        if isinstance(node, Product) and value is node.right:
            repeat = node.shape[-2] * max(1, math.prod(node.shape[:-2]) // max(1, math.prod(value.shape[:-2])))
        self._prepare(value, repeat)

    def _elements(self, node: Node, name: str) -> None:
        def write(index: Indices) -> None:
            text = self._computed(node, index)
            self._line(f"{name}[{_linear(node.shape, index)}] = {text};")

        self._loop(node.shape, write)

    def _computed(self, node: Node, index: Indices) -> str:
        """The expression of a value that is being stored, without a parenthesis around all of it."""
        text = self._text(node, index)
        depth = 0
        for at, sign in enumerate(text):
            depth += (sign == "(") - (sign == ")")
            if depth == 0:  # where the first parenthesis closes
                return text[1:-1] if sign == ")" and at == len(text) - 1 else text
        return text

    def _reduced(self, node: Reduced, name: str) -> None:
        value = node.value
        inner = tuple(size if axis in node.axes else 1 for axis, size in enumerate(value.shape))

        def write(index: Indices) -> None:
            target = f"{name}[{_linear(node.shape, index)}]"
            if node.operation == "sum":
                self._line(f"{TYPES[node.kind]} sum = 0;")
            else:
                self._line(f"float sum = {self._text(value, index)};")

            def add(inside: Indices) -> None:
                at = tuple(own + other for own, other in zip(index, inside, strict=True))
                text = self._text(value, at)
                longer = self._helped(f"@{node.operation}(sum, {text})") if node.operation != "sum" else f"sum + {text}"
                self._line(f"sum += {text};" if node.operation == "sum" else f"sum = {longer};")

            self._loop(inner, add)
            self._line(f"{target} = sum;")

        self._loop(node.shape, write, block=True)

    def _row(self, node: Product, name: str, index: Indices) -> None:
        """One row of a matrix product: every element of the left row times a row of the right matrix."""
        left, right, width = node.left, node.right, node.shape[-1]

        def begin(at: Indices) -> str:
            if node.start is None:
                return "0"
            return self._text(node.start, _broadcast(node.start.shape, (*index, *at)))

        def of_left(k: Indices) -> str:
            return self._text(left, _batch(left.shape, (*index, *k)))

        def of_right(k: Indices, at: Indices) -> str:
            return self._text(right, _batch(right.shape, (*index[:-1], *k, *at)))

        type_ = TYPES[node.kind]
        if width == 1:
            self._line(f"{type_} sum = {begin((ORIGIN,))};")
            self._loop((left.shape[-1],), lambda k: self._line(f"sum += {of_left(k)} * {of_right(k, (ORIGIN,))};"))
            self._line(f"{name}[{_linear(node.shape, (*index, ORIGIN))}] = sum;")
            return

        def target(at: Indices) -> str:
            return f"{name}[{_linear(node.shape, (*index, *at))}]"

        self._loop((width,), lambda at: self._line(f"{target(at)} = {begin(at)};"))

        def add(k: Indices) -> None:
            self._line(f"const {type_} left = {of_left(k)};")
            self._loop((width,), lambda at: self._line(f"{target(at)} += left * {of_right(k, at)};"))

        self._loop((left.shape[-1],), add, block=True)

    def _joined(self, node: Joined, name: str) -> None:
        first = 0
        for value in node.values:

            def write(index: Indices, value: Node = value, first: int = first) -> None:
                moved = tuple(at + Index(first) if axis == node.axis else at for axis, at in enumerate(index))
                self._line(f"{name}[{_linear(node.shape, moved)}] = {self._computed(value, index)};")

            self._loop(value.shape, write)
            first += value.shape[node.axis]

    def _splines(self, node: Splines, name: str) -> None:
        start = node.start
        if start is not None:
            self._loop(
                node.shape,
                lambda at: self._line(
                    f"{name}[{_linear(node.shape, at)}] = {self._text(start, _broadcast(start.shape, at))};"
                ),
            )
        self._line(f"{self.routine(node)}({self._read(node.value)}, {name});")

    # Lines

    def _line(self, text: str) -> None:
        self._lines.append("    " * self._depth + text)

    def _loop(self, shape: Shape, write: Callable[[Indices], None], *, block: bool = False) -> None:
        """Loops over all indices of a shape around what `write` writes. `block`: whether that declares a variable."""
        index, long = [], [axis for axis, size in enumerate(shape) if size != 1]
        outside = self._depth
        for axis, size in enumerate(shape):
            if axis not in long:
                index.append(ORIGIN)
                continue
            variable = LETTERS[self._depth - 1] if self._depth <= len(LETTERS) else f"i{self._depth}"
            self._line(f"for (int {variable} = 0; {variable} < {size}; {variable}++) {{")
            index.append(Index.of(variable))
            self._depth += 1
        if block and not long:
            self._line("{")
            self._depth += 1
        write(tuple(index))
        while self._depth > outside:
            self._depth -= 1
            self._line("}")


def _uses(result: Node) -> dict[Node, int]:
    """How many expressions read each value."""
    ordered: list[Node] = []  # each after its operands
    done: set[Node] = set()
    pending: list[tuple[Node, bool]] = [(result, False)]
    while pending:
        node, ready = pending.pop()
        if ready:
            ordered.append(node)
        elif node not in done:
            done.add(node)
            pending.append((node, True))
            pending.extend((value, False) for value in node.operands)
    uses: dict[Node, int] = {result: 1}
    for node in reversed(ordered):
        reads = uses[node] if isinstance(node, View | Flat | Selected) else 1
        for value in node.operands:
            uses[value] = uses.get(value, 0) + reads
    return uses


def _slots(buffers: list[Buffer]) -> list[tuple[str, int]]:
    """For each buffer, in the order of first use, its memory: the type, and a number among those of the type."""
    free: dict[str, list[tuple[int, int, int]]] = {}  # of each type: size, last statement, number
    result = []
    for buffer in buffers:
        own = free.setdefault(buffer.type, [])
        idle = sorted(slot for slot in own if slot[1] < buffer.first)
        chosen = next((slot for slot in idle if slot[0] >= buffer.size), idle[-1] if idle else None)
        number = len(own) if chosen is None else chosen[2]
        if chosen is not None:
            own.remove(chosen)
        own.append((max(buffer.size, chosen[0] if chosen else 0), buffer.last, number))
        result.append((buffer.type, number))
    return result


def _linear(shape: Shape, index: Indices) -> Index:
    """The position of an element in memory, row by row."""
    place, stride = ORIGIN, 1
    for size, at in zip(reversed(shape), reversed(index), strict=True):
        place = at.times(stride) + place
        stride *= size
    return place


def _broadcast(shape: Shape, index: Indices) -> Indices:
    """The index in an operand of this shape, by numpy's broadcasting."""
    own = index[len(index) - len(shape) :]
    return tuple(ORIGIN if size == 1 else at for size, at in zip(shape, own, strict=True))


def _batch(shape: Shape, index: Indices) -> Indices:
    """The same for an operand of a matrix product, whose last two axes do not broadcast."""
    own = index[len(index) - len(shape) :]
    return (*_broadcast(shape[:-2], own[:-2]), *own[-2:])
