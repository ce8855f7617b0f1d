"""B-splines on stored knots, any degree, uniform or not, per source or shared.

Source of the formula: the Cox-de Boor recursion with half-open cells, as in
pykan's `B_batch` and efficient-kan's `b_splines`. Knots are extended, k of them
on each side of the grid, so the spline fades to zero between the grid's end and
the outermost knot, and the right end of the grid needs no special case.

Two emissions, both on [B, K, I]: I innermost makes the broadcasts run over long
contiguous spans, which is worth a factor of two in onnxruntime. The recursion has
two layouts on the way there, of which the graph asks for one.
"""

from __future__ import annotations

import enum
import functools
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.bases import Array, Basis, Support
from kanexport.errors import CHECK_FAMILY, REPAIR, InvalidKan
from kanexport.graph.builder import Graph, Stack, Value

Flags = npt.NDArray[np.bool_]

# Largest deviation of a knot from the ideal uniform grid, in cells, up to which
# the closed form may stand in for the stored knots. It bounds the error of a
# basis value to about the same number, a tenth of the export's tolerance.
UNIFORM_TOLERANCE = 1e-6
MAX_KNOT_MAGNITUDE = 1e30  # no input is that large, and float32 still holds a hundred times the span
FINE = 32  # functions of a source, above which a value is worth looking for its cell
DEGREE_LIMIT = 32  # every degree is a level of the recursion, and so a few operators of the graph
# The factor that `emit_uniform_cubic` leaves to the coefficients.
CUBIC_SCALE = 8 / 6


def emit_uniform_cubic(g: Graph, x: Value, centres: Array, step: float) -> Value:
    """[B, 1, I] -> [B, K, I]: cubic splines of one step around centres [K], divided by CUBIC_SCALE.

    ((2-d)+^3 - 4 (1-d)+^3) / 8 with d = |x - centre| / step, in nine passes.
    """
    return cubic_at_distance(g, g.op("Abs", g.sub(x, g.const(centres[None, :, None]))), step)


def cubic_at_distance(g: Graph, distance: Value, step: float) -> Value:
    """The cubic spline of one step at a distance from its center, divided by CUBIC_SCALE."""
    half = 2.0 ** (-1 / 3)
    wide = _fade(g, distance, -0.5 / step, 1.0)
    narrow = _fade(g, distance, -half / step, half)
    return g.sub(g.cube(wide), g.cube(narrow))


def _fade(g: Graph, distance: Value, slope: float, start: float) -> Value:
    """(start + slope * distance)+, at most 1. One HardSigmoid computes it."""
    if g.dtype == np.float32:
        return g.hard_sigmoid(distance, alpha=slope, beta=start)
    return g.op("Relu", g.add(g.mul(distance, g.const(slope)), g.const(start)))


class Repeated(enum.Enum):
    """Values of a library at repeated knots, where the recursion divides 0 by 0.

    REFUSED    NaN, in every row: efficient-kan, and pykan before 0.2.2; or it is not known
    TERM       that half of the sum counts as 0: KANX
    FUNCTION   the whole sum counts as 0, at every level: pykan from 0.2.2 on, whose `nan_to_num`
               meets the NaN of 0 / 0, or of an infinity times 0, at every input. Knots may also
               decrease, as rounding in `refine` leaves them; no cell lies between those
    """

    REFUSED = enum.auto()
    TERM = enum.auto()
    FUNCTION = enum.auto()


@dataclass(frozen=True, slots=True, eq=False)
class BSpline(Basis):
    """B-spline basis with extended knots [I, T] that increase along T as `repeated` requires; K = T - degree - 1."""

    extended: Array
    degree: int
    repeated: Repeated = Repeated.REFUSED

    kind = "bspline"
    compact = True

    def __post_init__(self) -> None:
        if self.extended.ndim != 2 or self.degree < 1 or self.functions <= self.degree:
            raise InvalidKan(
                f"knots of shape {self.extended.shape} and degree {self.degree} do not make a spline, "
                "expected [sources, G + 2k + 1] with k >= 1 and G >= 1",
                code="grid-wrong-shape",
                hint=CHECK_FAMILY,
            )
        if self.degree > DEGREE_LIMIT:
            raise InvalidKan(
                f"{self.functions} functions on {self.extended.shape[1]} knots make splines of degree {self.degree}, "
                f"expected at most {DEGREE_LIMIT}",
                code="network-too-large",
                hint=CHECK_FAMILY,
            )
        may_repeat = self.repeated is Repeated.TERM
        with np.errstate(invalid="ignore", over="ignore"):  # refused later
            gaps = np.diff(self.extended, axis=1)
        bad = np.argwhere(~(gaps >= 0 if may_repeat else gaps > 0))
        if self.repeated is not Repeated.FUNCTION and len(bad):
            source, at = (int(v) for v in bad[0])
            here, after = (float(self.extended[source, at + step]) for step in (0, 1))
            undefined = "; the recursion divides 0 by 0 there" if here == after else ""
            raise InvalidKan(
                f"knots of source {source} are not {'' if may_repeat else 'strictly '}increasing: "
                f"{here!r} is followed by {after!r}{undefined}",
                code="knots-not-increasing",
                hint="train without grid updates on that input, or add noise to it: a grid collapses on constant or "
                "discrete values",
            )
        if not (np.abs(self.extended) < MAX_KNOT_MAGNITUDE).all():
            raise InvalidKan(
                f"a knot is not finite, or above {MAX_KNOT_MAGNITUDE:g}", code="weights-not-finite", hint=REPAIR
            )
        if self.repeated is Repeated.FUNCTION:
            self.zeros()

    def zeros(self) -> list[Flags]:
        """Masks of the functions that 0 / 0 makes zero at each level of the recursion, [K + degree - p, I] for p = 1
        to `degree`. Raises InvalidKan if a nonzero number is divided by zero."""
        t = self.extended.T
        empty = t[1:] <= t[:-1]  # functions that are zero anyway
        levels = []
        for p in range(1, self.degree + 1):
            flat = t[p:] == t[:-p]
            infinite = np.argwhere(flat & ~empty)
            if len(infinite):
                raise InvalidKan(
                    f"knots {int(infinite[0, 0])} and {int(infinite[0, 0]) + p} of source {int(infinite[0, 1])} are "
                    "equal, and a knot between them is larger: the spline of the library divides by zero there",
                    code="knots-not-increasing",
                    hint="export the model from before `refine`, which refined the grid on constant inputs",
                )
            zero = (flat[:-1] | flat[1:]) & (self.repeated is Repeated.FUNCTION)
            levels.append(zero)
            empty = zero | (empty[:-1] & empty[1:])
        return levels

    @property
    def functions(self) -> int:
        """K, from the number of knots and the degree."""
        return int(self.extended.shape[1]) - self.degree - 1

    @property
    def sources(self) -> int | None:
        """I: every source has a row of knots."""
        return len(self.extended)

    @property
    def intervals(self) -> int:
        """G, the number of grid intervals without the extension."""
        return self.functions - self.degree

    @property
    def shared(self) -> bool:
        """Whether all sources have the same knots."""
        return bool(np.all(self.extended == self.extended[0]))

    @property
    def step(self) -> float | None:
        """The width of a grid interval if all sources share one uniform grid, otherwise None."""
        if not self.shared:
            return None
        row = self.extended[0]
        step = (row[-1] - row[0]) / (len(row) - 1)
        ideal = row[0] + step * np.arange(len(row))
        uniform = step > 0 and np.max(np.abs(row - ideal)) <= UNIFORM_TOLERANCE * step
        return float(step) if uniform else None

    @property
    def increasing(self) -> bool:
        """Whether the knots strictly increase."""
        return bool((np.diff(self.extended, axis=1) > 0).all())

    def closed_form(self, dtype: npt.DTypeLike) -> bool:
        """Whether the uniform cubic form is used. Not in float64, which keeps all digits of the stored knots."""
        return self.degree == 3 and self.step is not None and np.dtype(dtype) == np.float32

    def emitted_scale(self, g: Graph) -> float:
        """CUBIC_SCALE for the closed form, otherwise 1."""
        return CUBIC_SCALE if self.closed_form(g.dtype) else 1.0

    def evaluate(self, x: Array) -> Array:
        """[B, I] -> [B, K, I], float64: the Cox-de Boor recursion."""
        t = self.extended.T[None]  # [1, T, I]
        # Outside the knots there is no cell, and what is not finite is outside: every function is zero there.
        inside = (x >= t.min(axis=1)) & (x < t.max(axis=1))
        increasing = self.increasing
        if increasing and self.functions > FINE:
            return self._in_cells(np.where(inside, x, t[:, 0]), inside)
        u = np.where(inside, x, t[:, 0])[:, None, :]
        basis = ((u >= t[:, :-1]) & (u < t[:, 1:]) & inside[:, None, :]).astype(np.float64)
        zeros = [None] * self.degree if increasing else self.zeros()
        for p, zero in enumerate(zeros, start=1):
            width = t[:, p:] - t[:, :-p]
            if zero is not None:
                width = np.where(width == 0, 1, width)  # where the basis is zero
            left = (u - t[:, : -p - 1]) / width[:, :-1] * basis[:, :-1]
            right = (t[:, p + 1 :] - u) / width[:, 1:] * basis[:, 1:]
            basis = left + right
            if zero is not None and zero.any():
                basis = np.where(zero, 0.0, basis)
        return np.asarray(basis)  # [B, K, I]

    def _in_cells(self, u: Array, inside: Flags) -> Array:
        """[B, I] -> [B, K, I]: the recursion over the degree + 1 functions that are not zero in the grid interval of
        each u; exact for knots that increase. All other functions are zero there, so that a fine grid costs no more."""
        sources, count = self.extended.shape
        flat, starts = self.extended.reshape(-1), np.arange(sources) * count

        def knot(at: npt.NDArray[np.intp]) -> Array:
            return np.asarray(flat[starts + np.clip(at, 0, count - 1)])

        if self.shared:
            cell = np.searchsorted(self.extended[0], u, side="right") - 1  # the knot at or below each u
        else:
            pairs = zip(self.extended, u.T, strict=True)
            cell = np.stack([np.searchsorted(knots, column, side="right") for knots, column in pairs], axis=1) - 1
        values = [np.ones(u.shape)]  # of functions cell - p to cell, at level p
        with np.errstate(divide="ignore", invalid="ignore"):  # in functions that reach beyond the knots
            for p in range(1, self.degree + 1):
                at = [knot(cell + r) for r in range(1 - p, p + 1)]  # what those functions have between them
                parts = [
                    ((u - low) / (high - low) * value, (high - u) / (high - low) * value)
                    for low, high, value in zip(at, at[p:], values, strict=False)
                ]
                between = [up + down for (up, _), (_, down) in itertools.pairwise(parts)]
                values = [parts[0][1], *between, parts[-1][0]]
        basis = np.zeros((len(u), self.functions, sources))
        for r, value in enumerate(values):
            function = cell - self.degree + r
            rows, columns = np.nonzero(inside & (function >= 0) & (function < self.functions))
            basis[rows, function[rows, columns], columns] = value[rows, columns]
        return basis

    def emit(self, g: Graph, x: Value, sources: int) -> Value:
        """[B, I] -> [B, K, I]: the closed form if the grid is uniform, otherwise the recursion."""
        if self.closed_form(g.dtype):
            step = self.step
            assert step is not None
            return emit_uniform_cubic(g, g.reshape(x, 0, 1, sources), self.extended[0, 2:-2], step)
        return self._emit_ramps(g, x, sources)

    def _emit_ramps(self, g: Graph, x: Value, sources: int) -> Value:
        """Any knots, with a comparison only for knots that repeat or decrease.

        With w_c = (x - t_c) / (t_{c+p} - t_c), degree 1 is a difference of clipped
        ramps, and B_c^p = w_c B_c + (1 - w_{c+1}) B_{c+1} needs each product once.
        The difference x - t is taken before the division, so that narrow cells
        far from zero keep their digits.
        """
        t = self.extended.T  # [T, I]
        count = len(t)
        # Beyond the outermost knots nothing changes; the clip keeps huge values
        # from overflowing where the exact value is zero.
        low, high = self._ends()
        clipped = g.stack(g.op("Min", g.op("Max", x, g.const(low)), g.const(high)), sources)
        offsets = clipped.each(g.sub, t)  # T rows
        basis = None
        if (np.diff(self.extended, axis=1) < 0).any():  # 1 in the grid interval of a function, 0 elsewhere: T - 1 rows
            after = clipped.each(functools.partial(g.op, "GreaterOrEqual"), t[:-1])
            before = clipped.each(functools.partial(g.op, "Less"), t[1:])
            basis = after.each(functools.partial(g.op, "And"), before).each(g.cast)
        for p, zero in enumerate(self.zeros(), start=1):
            rows = count - p
            width = t[p:] - t[:-p]
            with np.errstate(over="ignore", divide="ignore"):  # the graph refuses what is not finite
                inverse = np.where(width == 0, 0, 1 / width)
            ramp = offsets.slice_rows(0, rows).each(g.mul, inverse)
            if basis is None:
                up = down = self._clipped(g, ramp, offsets)
            else:
                up = ramp.each(g.mul, basis)
                down = up.each(g.sub, basis)
            basis = up.slice_rows(0, rows - 1).each(g.sub, down.slice_rows(1, rows))
            if zero.any():
                basis = basis.each(g.mul, (~zero).astype(np.float64))
        assert basis is not None
        return basis.joined(sources)

    def _clipped(self, g: Graph, ramp: Stack, offsets: Stack) -> Stack:
        """The ramps of degree 1 from 0 to 1; on an interval of width 0 that counts, a step at its knot."""
        up = ramp.each(functools.partial(g.clip, low=0.0, high=1.0))
        flat = np.diff(self.extended, axis=1) == 0
        if self.repeated is not Repeated.TERM or not flat.any():
            return up
        cells = offsets.slice_rows(0, flat.shape[1])
        step = cells.each(lambda offset: g.cast(g.op("GreaterOrEqual", offset, g.const(0.0))))
        return up.each(lambda up, flat, step: g.op("Where", flat, step, up), flat.T, step)

    def _ends(self) -> tuple[Array, Array]:
        """Two bounds [I], about a grid interval below the first knots and above the last; further than float32
        rounds."""
        low, high = self.extended.min(axis=1), self.extended.max(axis=1)
        margin = np.maximum((high - low) / (self.extended.shape[1] - 1), 1e-6 * np.maximum(np.abs(low), np.abs(high)))
        return low - margin, high + margin

    def clip_range(self) -> tuple[float, float]:
        """The range of the knots of all sources, extended by about a grid interval at each end."""
        low, high = self._ends()
        return float(low.min()), float(high.max())

    def support(self, sources: int) -> Support:
        """The grid, and the range of its extension; every knot is a point. If all knots are equal, a range around
        them, for other terms."""
        k, t = self.degree, self.extended
        core = np.sort(t[:, [k, -k - 1]], axis=1)
        outer = np.stack([t.min(axis=1), t.max(axis=1)], axis=1)
        if not (np.diff(t, axis=1) > 0).all():
            flat = outer[:, 1] == outer[:, 0]
            room = np.where(flat, np.maximum(1, np.abs(t[:, 0])), 0)[:, None] * np.array([-1, 1])
            core, outer = core + room, np.stack(self._ends(), axis=1) + 2 * room
        return Support((core[:, 0], core[:, 1]), (outer[:, 0], outer[:, 1]), t.T)

    def parameters(self) -> dict[str, str]:
        """Degree, number of grid intervals, and whether they are equally wide for all sources."""
        return {
            "degree": str(self.degree),
            "intervals": str(self.intervals),
            "uniform": str(self.step is not None).lower(),
        }

    def knots(self) -> Array:
        """The extended knots, [1, T] if all sources share them, otherwise [I, T]."""
        return self.extended[:1] if self.shared else self.extended
