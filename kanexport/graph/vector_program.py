"""Programs of vector instructions, for the custom operators that compute any basis (`kernel/src/program.h`).

The compiler reads the ONNX graph that a basis emits. A new family needs no further code here or in the
operator. Every value of that graph is a stack of rows [K, I], and each row becomes one register: Add of two stacks of
five rows is five instructions. Instructions have no jumps. Products that only one sum uses become one instruction with
it, and so do a Gaussian's operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.graph.builder import Graph, Value
from kanexport.graph.opened import OpenedGraph, Operator, opened
from kanexport.graph.vector_cells import Cell, Fuser, is_leaf, reachable

# In the order of kernel/src/program.h.
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Bell")
UNARY = (
    *("Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Tanh", "Sigmoid", "Relu", "Round", "Floor"),
    *("Sign", "IsNaN", "Copy", "Atan", "Softplus", "Silu", "Hill"),
)
TERNARY = (
    *("Where", "MulAdd", "MulSub", "SubMul"),
    *("Affine", "Distance", "Radial", "BellTimes", "SinOf", "CosOf", "Ridge"),
)
PLAIN = frozenset((*BINARY, *UNARY, "Where")) - {"Bell", "Copy", "Silu", "Hill"}  # those that are operators of ONNX
CODES = {name: code for code, name in enumerate((*BINARY, *UNARY, *TERNARY))}
TABLE, INPUT = 1 << 20, 1 << 21  # first operands of table rows and of inputs
INPUTS = ("sources", "normalized")
INSTRUCTIONS = 1 << 16  # more are not worth an operator
REGISTERS = 1 << 12
POWERS = 16
ROW = 3  # axes of a stack with its batch

Array = npt.NDArray[np.float32]


class NoProgramError(Exception):
    """The graph has an operator or a shape that no instruction computes."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Instructions in the form that the operators read.

    code       [N, 5]: instruction, register of the result, and three operands
    constants  [1, C]
    tables     [T, I]: values of each source
    registers  number of registers; the results are in the first `functions`
    """

    code: Array
    constants: Array
    tables: Array
    registers: int
    functions: int


Emit = Callable[[Graph, Value, Value], Sequence[tuple[Value, int]]]


def compiled(emit: Emit, sources: int) -> Program:
    """The program of the values that `emit` makes of two inputs [B, I], the sources and the same after a layer
    normalization: each with its number of functions K, [B, K, I] or [B, I]. Raises NoProgramError."""
    g = Graph("basis", np.float32)
    g.exact_waves = True
    entries = [g.input(name, sources) for name in INPUTS]
    results = emit(g, *entries)
    outputs: dict[str, tuple[Value, tuple[int, ...]]] = {}
    for at, (value, k) in enumerate(results):
        outputs[f"result{at}"] = (value, (k, sources) if k > 1 else (sources,))
    reader = _Reader(opened(g.build(outputs)), sources)
    rows = [row for name in outputs for row in reader.rows[name]]
    if len(rows) != sum(k for _, k in results):
        raise NoProgramError("a result has another shape")
    return _Writer(Fuser(reader.cells, rows).fused(), rows).program(reader.tables, sources)


class _Reader:
    """Rows of each tensor of a graph, as numbers of cells. Equal cells are one."""

    def __init__(self, graph: OpenedGraph, sources: int) -> None:
        self.cells: list[Cell] = []
        self.tables: list[Array] = []
        self.rows: dict[str, list[int]] = {}
        self._sources = sources
        self._places: dict[Cell, int] = {}
        self._table_places: dict[bytes, int] = {}
        self._arrays = graph.constants
        for at, name in enumerate(INPUTS):
            self.rows[name] = [self.cell("input", value=at)]
        for operator in graph.operators:
            self._operator(operator)

    def cell(self, kind: str, *of: int, value: float = 0.0) -> int:
        """The number of a cell."""
        cell = Cell(kind, of, value)
        if cell not in self._places:
            if len(self.cells) >= INSTRUCTIONS:
                raise NoProgramError("the graph is too large")
            self._places[cell] = len(self.cells)
            self.cells.append(cell)
        return self._places[cell]

    def number(self, value: float) -> int:
        """The number of the cell of a constant. NaN is not equal to itself, so that it has one name."""
        return self.cell("const", value=float("nan") if np.isnan(value) else float(value))

    def _of(self, name: str) -> list[int]:
        if name not in self.rows:
            self.rows[name] = self._constant(self._arrays[name])
        return self.rows[name]

    def _constant(self, array: npt.NDArray[Any]) -> list[int]:
        shape = (*(1,) * (ROW - array.ndim), *array.shape)
        if len(shape) != ROW or shape[0] != 1 or shape[2] not in (1, self._sources):
            raise NoProgramError(f"a constant has shape {array.shape}")
        cells = []
        for row in np.asarray(array, np.float32).reshape(shape[1:]):
            if (row == row[0]).all() or len(row) == 1:
                cells.append(self.number(float(row[0])))
                continue
            key = row.tobytes()
            if key not in self._table_places:
                self._table_places[key] = len(self.tables)
                self.tables.append(row)
            cells.append(self.cell("table", value=self._table_places[key]))
        return cells

    # radon: one operator after the other.
    def _operator(self, operator: Operator) -> None:
        kind, names, attributes = operator.kind, operator.inputs, operator.attributes
        if kind == "Gather" and attributes.get("axis") == 1:
            values = [self._of(names[0])[at] for at in self._arrays[names[1]].reshape(-1).tolist()]
        elif kind in ("Reshape", "Slice"):
            values = self._moved(kind, self._of(names[0]), [self._arrays[name] for name in names[1:]])
        elif kind == "Concat" and attributes["axis"] == 1:
            values = [row for name in names for row in self._of(name)]
        elif kind == "Pow":
            exponent = self._arrays.get(names[1], np.zeros(0))
            power = float(exponent.item()) if exponent.size == 1 else 0.0
            if power not in range(2, POWERS):
                raise NoProgramError(f"the power {power}")
            rows = values = self._of(names[0])
            for _ in range(int(power) - 1):
                values = self._stacked("Mul", [values, rows])
        elif kind == "HardSigmoid":
            values = self._of(names[0])
            for step, number in (("Mul", attributes["alpha"]), ("Add", attributes["beta"]), ("Max", 0.0), ("Min", 1.0)):
                values = self._stacked(step, [values, [self.number(number)]])
        else:
            values = self._stacked(kind, [self._of(name) for name in names])
        self.rows[operator.outputs[0]] = values

    def _moved(self, kind: str, rows: list[int], shapes: list[npt.NDArray[Any]]) -> list[int]:
        """The rows of a Reshape, which are the same, or of a Slice."""
        if kind == "Reshape":
            shape = shapes[0].tolist()
            if shape[-1] == -1 or shape[-1] % self._sources or not 1 < len(shape) <= ROW or shape[0] != 0:
                raise NoProgramError(f"a tensor takes the shape {shape}")
            return rows
        start, stop, axis = (int(array[0]) for array in shapes[:3])
        if axis != 1 or len(shapes) > ROW:
            raise NoProgramError(f"a slice of axis {axis}")
        return rows[start:stop]

    def _stacked(self, kind: str, operands: list[list[int]]) -> list[int]:
        """An elementwise operator on stacks, which broadcast if they have one row."""
        count = max(map(len, operands))
        if any(len(rows) not in (1, count) for rows in operands):
            raise NoProgramError(f"{kind} of stacks of different sizes")
        stacks = [rows if len(rows) > 1 else rows * count for rows in operands]
        if kind in ("Cast", "Identity"):
            return stacks[0]
        if kind == "Not":
            return [self.cell("Sub", self.number(1.0), at) for at in stacks[0]]
        if kind == "Clip":  # as the operator: NaN stays
            return [self.cell("Min", self.cell("Max", x, low), high) for x, low, high in zip(*stacks, strict=True)]
        name = {"And": "Mul", "Or": "Max"}.get(kind, kind)
        wanted = 2 if name in BINARY else 1 if name in UNARY else 3
        if name not in PLAIN or len(operands) != wanted:
            raise NoProgramError(f"the operator {kind}")
        return [self.cell(name, *of) for of in zip(*stacks, strict=True)]


class _Writer:
    """Assigns registers, and writes the instructions. A register is free again after the last use of its value."""

    def __init__(self, cells: list[Cell], results: list[int]) -> None:
        self._cells, self._results = cells, results
        self._order = [at for at in reachable(cells, results) if not is_leaf(cells[at])]
        self._code: list[tuple[float, ...]] = []
        self._constants: dict[str, tuple[int, float]] = {}
        self._registers = len(results)
        self._place: dict[int, int] = {}
        for register, result in enumerate(results):
            if not is_leaf(cells[result]):
                self._place.setdefault(result, register)

    # radon: one expression for each part of the program.
    def program(self, tables: list[Array], sources: int) -> Program:
        """The program of all cells."""
        last = {other: step for step, at in enumerate(self._order) for other in self._cells[at].of}
        kept, free = set(self._place), list[int]()
        for step, at in enumerate(self._order):
            operands = [self._operand(other) for other in self._cells[at].of]
            ended = {other for other in self._cells[at].of if last[other] == step} & self._place.keys()
            free += [self._place[other] for other in sorted(ended - kept)]
            if at not in self._place and free:
                self._place[at] = free.pop()
            elif at not in self._place:
                self._place[at] = self._registers
                self._registers += 1
                if self._registers > REGISTERS:
                    raise NoProgramError("too many values at a time")
            self._write(self._cells[at].kind, self._place[at], operands)
        for register, result in enumerate(self._results):
            if self._place.get(result) != register:
                self._write("Copy", register, [self._operand(result)])
        constants = [value for _, value in self._constants.values()] or [0.0]
        held = np.array(tables or [np.zeros(sources, np.float32)])
        code = np.array(self._code, np.float32)
        return Program(code, np.array([constants], np.float32), held, self._registers, len(self._results))

    def _operand(self, at: int) -> int:
        cell = self._cells[at]
        if cell.kind == "const":
            key = repr(cell.value)
            return -1 - self._constants.setdefault(key, (len(self._constants), cell.value))[0]
        if cell.kind in ("table", "input"):
            return int(cell.value) + (TABLE if cell.kind == "table" else INPUT)
        return self._place[at]

    def _write(self, kind: str, register: int, operands: list[int]) -> None:
        self._code.append((CODES[kind], register, *operands, *(0,) * (3 - len(operands))))
