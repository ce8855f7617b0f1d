"""Cells of a program of vector instructions before it has registers, and longer instructions in place of several.

The rules only join cells of which the inner ones have no other use. The results are the same except for the rounding
of a product before a sum, which one instruction may leave out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cell:
    """One row: an instruction of other rows, or "const" or "table" or "input" of a number."""

    kind: str
    of: tuple[int, ...] = ()
    value: float = 0.0


def is_leaf(cell: Cell) -> bool:
    """Whether a cell is not an instruction."""
    return cell.kind in ("const", "table", "input")


def reachable(cells: list[Cell], results: list[int]) -> list[int]:
    """The cells that the results need, each after its operands, with the results as early as they can be."""
    order: list[int] = []
    seen: set[int] = set()
    for result in results:
        pending = [(result, False)]
        while pending:
            at, ready = pending.pop()
            if ready:
                order.append(at)
            elif at not in seen:
                seen.add(at)
                pending.append((at, True))
                pending += [(other, False) for other in reversed(cells[at].of) if other not in seen]
    return order


class Fuser:
    """Longer instructions in place of two to four, where the values between have no other use."""

    def __init__(self, cells: list[Cell], results: list[int]) -> None:
        self.cells = list(cells)
        self._order = reachable(cells, results)
        self._uses = Counter(other for at in self._order for other in cells[at].of) + Counter(results)

    def fused(self) -> list[Cell]:
        """The cells after fusion, unused ones included."""
        rules = {
            "Exp": self._exponential,
            "Div": self._quotient,
            "Reciprocal": self._logistic,
            "Add": self._sum,
            "Sub": self._sum,
            "Mul": self._product,
            "Sin": self._wave,
            "Cos": self._wave,
        }
        for at in self._order:
            cell = self.cells[at]
            if cell.kind in rules:
                self.cells[at] = rules[cell.kind](cell) or cell
        return self.cells

    def _single(self, at: int, kind: str) -> Cell | None:
        """A cell of this kind that is used once."""
        return self.cells[at] if self.cells[at].kind == kind and self._uses[at] == 1 else None

    def _number(self, value: float) -> int:
        self.cells.append(Cell("const", value=value))
        return len(self.cells) - 1

    def _is(self, at: int, value: float) -> bool:
        return self.cells[at] == Cell("const", value=value)

    def _exponential(self, cell: Cell) -> Cell | None:
        """exp(-d d) of a difference times a constant, and exp(u u c) with a constant c."""
        at, factor = cell.of[0], -1
        if negated := self._single(at, "Neg"):
            at = negated.of[0]
        elif (scaled := self._single(at, "Mul")) and self.cells[scaled.of[1]].kind == "const":
            at, factor = scaled.of
        square = self._single(at, "Mul")
        if at == cell.of[0] or square is None or square.of[0] != square.of[1]:
            return None
        root = square.of[0]
        if factor < 0 and self.cells[root].kind == "Affine" and self._uses[root] == len(square.of):
            return Cell("Radial", self.cells[root].of)
        return Cell("Bell", (root, self._number(-1.0) if factor < 0 else factor))

    def _logistic(self, cell: Cell) -> Cell | None:
        """1 / (1 + exp(-x))."""
        source = self._grown(cell.of[0])
        return None if source is None else Cell("Sigmoid", (source,))

    def _grown(self, at: int) -> int | None:
        """x, if the cell is 1 + exp(-x) and has one use."""
        total = self._single(at, "Add")
        if total is None or not self._is(total.of[1], 1.0) or self.cells[total.of[0]].kind != "Exp":
            return None
        negated = self.cells[self.cells[total.of[0]].of[0]]
        return negated.of[0] if negated.kind == "Neg" else None

    def _quotient(self, cell: Cell) -> Cell | None:
        """x / (1 + exp(-x)), and e / ((1 + e) (1 + e)) with e = exp(a), where a may be a distance."""
        above, below = cell.of
        if self._grown(below) == above:
            return Cell("Silu", (above,))
        square, power = self.cells[below], self.cells[above]
        if square.kind == "Mul" and square.of[0] == square.of[1] and power.kind == "Exp":
            total = self.cells[square.of[0]]
            if total.kind == "Add" and total.of[0] == above and self._is(total.of[1], 1.0):
                inner = self._single(power.of[0], "Distance")
                return Cell("Ridge", inner.of) if inner else Cell("Hill", power.of)
        return None

    def _product(self, cell: Cell) -> Cell | None:
        """A bell, a difference, or the magnitude of a difference, times a number."""
        for at, other in (cell.of, cell.of[::-1]):
            if (bell := self._single(at, "Bell")) and at != other:
                return Cell("BellTimes", (other, *bell.of))
        return self._difference(*cell.of)

    def _difference(self, first: int, second: int) -> Cell | None:
        if (difference := self._single(first, "Sub")) and is_leaf(self.cells[second]):
            return Cell("Affine", (*difference.of, second))
        total = self._single(second, "Add")
        if total and self.cells[total.of[1]].kind == "const":
            return Cell("Affine", (total.of[0], self._number(-self.cells[total.of[1]].value), first))
        size = self._single(first, "Abs")
        inner = self._single(size.of[0], "Sub") if size else None
        return Cell("Distance", (*inner.of, second)) if inner and is_leaf(self.cells[second]) else None

    def _sum(self, cell: Cell) -> Cell | None:
        """A sum or difference with a product."""
        first, second = cell.of
        for at, other, kind in ((first, second, f"Mul{cell.kind}"), (second, first, f"{cell.kind}Mul")):
            if (product := self._single(at, "Mul")) and at != other:
                return Cell("MulAdd" if cell.kind == "Add" else kind, (*product.of, other))
        return None

    def _wave(self, cell: Cell) -> Cell | None:
        """The sine or cosine of a product, or of a product and a sum."""
        inner = self.cells[cell.of[0]]
        if inner.kind == "MulAdd":
            return Cell(f"{cell.kind}Of", inner.of)
        return Cell(f"{cell.kind}Of", (*inner.of, self._number(0.0))) if inner.kind == "Mul" else None
