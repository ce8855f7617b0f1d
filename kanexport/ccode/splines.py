"""C of the splines of a layer: the live functions of each source in its cell, and the rows of coefficients that they
multiply.

A spline of degree k has k + 1 functions that are not zero in a cell. Their values are polynomials of the distance from
the knot below, stored per cell if that takes little memory. Otherwise the de Boor recursion computes them from the
knots (C. de Boor, A Practical Guide to Splines, 1978, chapter X).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.ccode.integer_tables import STORAGE, Codes
from kanexport.ccode.nodes import Array, Splines
from kanexport.ccode.tables import Tables, literal

FEW = 200  # floats of polynomials that are always worth their memory
SHARE = 8  # of the coefficients: memory that polynomials may take
NEAR = 0.25  # cells: distance from uniform knots within which the first guess of a cell is at most one off
LINEAR = 16  # knots up to which a search goes from one to the next

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Basis:
    """Functions of all sources of a layer. `knots` [1 or I, T] in float32, for T - degree - 1 functions."""

    knots: Array
    degree: int
    scale: float

    @property
    def live(self) -> int:
        """The number of functions that are not zero in a cell."""
        return self.degree + 1

    @property
    def functions(self) -> int:
        """K."""
        return int(self.knots.shape[1]) - self.degree - 1

    @property
    def cells(self) -> int:
        """Cells between the first knot and the last one."""
        return int(self.knots.shape[1]) - 1

    def uniform(self) -> bool:
        """Whether equal cells give a first guess that is at most one off."""
        knots = self.knots.astype(np.float64)
        step = (knots[:, -1:] - knots[:, :1]) / self.cells
        away = knots - (knots[:, :1] + step * np.arange(self.cells + 1))
        return bool((np.abs(away) <= NEAR * step).all())

    def polynomials(self) -> Array:
        """[rows, cells, live powers, live functions]: of the functions that are stored from `first` on."""
        table = np.zeros((len(self.knots), self.cells, self.live, self.live))
        for row, knots in enumerate(self.knots.astype(np.float64)):
            for cell in range(self.cells):
                for function in range(max(0, cell - self.degree), min(cell, self.functions - 1) + 1):
                    polynomial = _piece(knots, function, self.degree, cell)
                    table[row, cell, : len(polynomial), function - self.first(cell)] = polynomial * self.scale
        return table.astype(np.float32)

    def first(self, cell: int) -> int:
        """The number of the first function whose coefficients a cell reads."""
        return min(max(cell - self.degree, 0), self.functions - self.live)


def _piece(knots: Floats, function: int, degree: int, cell: int) -> Floats:
    """The coefficients of a function in a cell, from the constant on, of the distance from the knot below."""
    if degree == 0:
        return np.array([1.0 if function == cell else 0.0])
    total = np.zeros(degree + 1)
    here, left, right = knots[cell], knots[function], knots[function + degree + 1]
    for own, start, rate in (
        (function, here - left, 1.0 / (knots[function + degree] - left)),
        (function + 1, right - here, -1.0 / (right - knots[function + 1])),
    ):
        if own <= cell <= own + degree - 1:
            lower = _piece(knots, own, degree - 1, cell)
            total[:-1] += start * abs(rate) * lower
            total[1:] += rate * lower
    return total


@dataclass(frozen=True, slots=True)
class LayerTables:
    """Names of the tables of a layer.

    type     of the coefficients in C
    base     the weights of the base branch, or ""
    rows     the scale of each source, or "" if the coefficients are floats
    columns  the scale of each output
    """

    type: str
    coef: str
    base: str = ""
    rows: str = ""
    columns: str = ""


class SplineRoutines:
    """C functions of the splines of a file, each written once. `users`: the functions that call each. `storage`: of the
    coefficients, a key of `STORAGE`."""

    def __init__(self, prefix: str, tables: Tables, storage: str) -> None:
        self._prefix, self._tables, self._storage = prefix, tables, storage
        self._names: dict[tuple[object, ...], str] = {}
        self.texts: dict[str, list[str]] = {}
        self.users: dict[str, set[str]] = {}

    def name(self, node: Splines) -> str:
        """The function that adds the splines of a row to the sums, or writes each edge."""
        edges = node.start is None
        basis = Basis(node.knots, node.degree, node.scale)
        own = self._basis(basis, node.coef.size)
        layer = self._layer(node)
        name = self._named(("edges" if edges else "layer", own, layer, node.spreads))
        self.users[name].add(self._tables.user)
        if not self.texts[name]:
            self.texts[name] = list(_layer(name, own, node, basis, layer, self._prefix))
        return name

    def _layer(self, node: Splines) -> LayerTables:
        """The tables of the coefficients."""
        coef, weights, table = node.coef.transpose(1, 0, 2), node.weights, self._tables.table
        limit = STORAGE[self._storage]
        if not limit:
            return LayerTables("float", table(coef), "" if weights is None else table(weights))
        codes = Codes.of(coef, weights, limit)
        numbers, functions = codes.numbers.astype(self._storage), len(node.coef)
        return LayerTables(
            "short" if numbers.dtype == np.int16 else "signed char",
            table(numbers[:, :functions]),
            "" if weights is None else table(numbers[:, functions]),
            table(codes.rows.astype(np.float32)),
            table(codes.columns.astype(np.float32)),
        )

    def _named(self, key: tuple[object, ...]) -> str:
        if key not in self._names:
            count = sum(other[0] == key[0] for other in self._names)
            name = f"{self._prefix}_{key[0]}{count}"
            self._names[key] = name
            self.texts[name], self.users[name] = [], set()
        return self._names[key]

    def _basis(self, basis: Basis, coefficients: int) -> str:
        """The function that finds the cell of a value and the values of its live functions."""
        stored = len(basis.knots) * basis.cells * basis.live**2 <= coefficients // SHARE + FEW  # floats of polynomials
        name = self._named(("basis", basis.knots.tobytes(), len(basis.knots), basis.degree, basis.scale, stored))
        self.users[name].add(self._tables.user)
        if stored:
            tables = self._tables.table(basis.knots), self._tables.table(basis.polynomials())
            lines = _by_polynomials(name, basis, *tables)
        else:
            lines = _by_recursion(name, basis, self._tables.table(_padded(basis)))
        if not self.texts[name]:
            self.texts[name] = list(lines)
        return name


def _padded(basis: Basis) -> Array:
    """Knots with `degree - 1` more on either side, which the recursion reads for functions that do not exist."""
    count = basis.degree - 1
    knots, steps = basis.knots.astype(np.float64), np.arange(1, count + 1)
    wide = (knots[:, -1:] - knots[:, :1]) / basis.cells
    padded = np.concatenate([knots[:, :1] - wide * steps[::-1], knots, knots[:, -1:] + wide * steps], axis=1)
    return padded.astype(np.float32)


def _head(name: str, basis: Basis, table: str, pad: int) -> Iterator[str]:
    """The beginning of a basis function: values outside of the knots, and the cell of the others."""
    last, live, many = basis.cells, basis.live, len(basis.knots) > 1
    yield f"static int {name}(float x, {'int i, ' if many else ''}float *w)"
    yield "{"
    row = f" + i * {basis.cells + 1 + 2 * pad}" if many else ""
    yield f"    const float *t = {table}{row}{f' + {pad}' if pad else ''};"
    yield "    int c;"
    yield f"    if (!(x >= t[0] && x < t[{last}])) {{"
    yield f"        for (int r = 0; r < {live}; r++) w[r] = 0.0f;"
    yield "        return 0;"
    yield "    }"
    if basis.uniform():
        rate = f"{last}.0f / (t[{last}] - t[0])"
        if not many:
            rate = literal(last / (float(basis.knots[0, -1]) - float(basis.knots[0, 0])))
        yield f"    c = (int)((x - t[0]) * {f'({rate})' if many else rate});"
        yield f"    if (c > {last - 1}) c = {last - 1};"
        yield "    if (x < t[c]) c--;"
        yield "    else if (x >= t[c + 1]) c++;"
    elif last + 1 <= LINEAR:
        yield f"    for (c = 0; c < {last - 1} && x >= t[c + 1]; c++) {{"
        yield "    }"
    else:
        yield "    c = 0;"
        yield f"    for (int high = {last}; high - c > 1;) {{"
        yield "        const int middle = (c + high) / 2;"
        yield "        if (x >= t[middle]) c = middle;"
        yield "        else high = middle;"
        yield "    }"


def _by_polynomials(name: str, basis: Basis, knots: str, polynomials: str) -> Iterator[str]:
    live, last = basis.live, basis.functions - basis.live
    yield from _head(name, basis, knots, 0)
    row = f"i * {basis.cells} + c" if len(basis.knots) > 1 else "c"
    yield f"    const float *p = {polynomials} + ({row}) * {live * live};"
    yield "    x -= t[c];"
    powers = f"p[{live * basis.degree} + r]"
    for power in reversed(range(basis.degree)):
        powers = f"p[{f'{live * power} + ' if power else ''}r] + x * " + (
            powers if power == basis.degree - 1 else f"({powers})"
        )
    yield f"    for (int r = 0; r < {live}; r++) w[r] = {powers};"
    yield f"    c -= {basis.degree};"
    yield f"    return c < 0 ? 0 : c > {last} ? {last} : c;"
    yield "}"


def _by_recursion(name: str, basis: Basis, knots: str) -> Iterator[str]:
    live, degree, last = basis.live, basis.degree, basis.functions - basis.live
    yield from _head(name, basis, knots, degree - 1)
    yield f"    w[0] = {literal(basis.scale)};"
    yield f"    for (int n = 1; n < {live}; n++) {{"
    yield "        float rest = 0.0f;"
    yield "        for (int r = 0; r < n; r++) {"
    yield "            const float low = t[c + 1 + r - n], high = t[c + 1 + r], part = w[r] / (high - low);"
    yield "            w[r] = rest + (high - x) * part;"
    yield "            rest = (x - low) * part;"
    yield "        }"
    yield "        w[n] = rest;"
    yield "    }"
    yield f"    c -= {degree};"
    yield "    if (c < 0) {"
    yield f"        for (int r = 0; r < {live}; r++) w[r] = r - c < {live} ? w[r - c] : 0.0f;"
    yield "        c = 0;"
    yield f"    }} else if (c > {last}) {{"
    yield f"        for (int r = {degree}; r >= 0; r--) w[r] = r >= c - {last} ? w[r - c + {last}] : 0.0f;"
    yield f"        c = {last};"
    yield "    }"
    yield "    return c;"
    yield "}"


# radon: one expression for each part of the C function.
def _layer(name: str, own: str, node: Splines, basis: Basis, tables: LayerTables, prefix: str) -> Iterator[str]:
    """The function of a layer: sums of all sources, or every edge."""
    functions, sources, outputs = node.coef.shape
    by_output, at = (f" * {outputs}", "o") if outputs > 1 else ("", "")
    yield f"static void {name}(const float *restrict x, float *restrict y)"
    yield "{"
    if node.spreads:
        yield "    float spread = 0.0f;"
    if tables.rows and node.start is not None:
        yield f"    float s[{outputs}] = {{0.0f}};"
    yield f"    for (int i = 0; i < {sources}; i++) {{"
    yield f"        float w[{basis.live}];"
    row = f"i * {functions} + {own}(x[i], {'i, ' if len(basis.knots) > 1 else ''}w)"
    yield f"        const {tables.type} *c = {tables.coef} + {f'({row}){by_output}' if by_output else row};"
    terms = [f"w[{r}] * c[{_sum(r * outputs, at)}]" for r in range(basis.live)]
    if tables.rows:
        yield f"        for (int r = 0; r < {basis.live}; r++) w[r] *= {tables.rows}[i];"
    if tables.base:
        yield f"        const {tables.type} *v = {tables.base} + i{by_output};"
        yield f"        const float b = {prefix}_silu(x[i]){f' * {tables.rows}[i]' if tables.rows else ''};"
        terms.append(f"b * v[{_sum(0, at)}]")
    total, element = " + ".join(terms), f"[{_sum(0, at)}]"
    loop = f"for (int o = 0; o < {outputs}; o++) " if at else ""
    if node.start is None:  # every edge
        place = f"i * {outputs} + o" if at else "i"
        yield f"        {loop}y[{place}] = {f'{tables.columns}{element} * ({total})' if tables.rows else total};"
        yield "    }"
        yield "}"
        return
    yield f"        {loop}{'s' if tables.rows else 'y'}{element} += {total};"
    if node.spreads:
        yield "        spread += x[i] - x[i];"
    yield "    }"
    rest = [f"s{element} * {tables.columns}{element}"] if tables.rows else []
    rest += ["spread"] if node.spreads else []
    if rest:
        yield f"    {loop}y{element} += {' + '.join(rest)};"
    yield "}"


def _sum(number: int, variable: str) -> str:
    """C of a number plus a variable. A zero or an empty name is left out."""
    return " + ".join(filter(None, (str(number) if number or not variable else "", variable)))
