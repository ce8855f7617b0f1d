"""Search of a network: the highest and lowest outputs in a box, and points where an output rises or falls."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from kanexport.certify.propagation import Network
from kanexport.ir.model import Kan
from kanexport.verify import float64_reference

Array = npt.NDArray[np.float64]

FIRST = 4096  # random points
STARTS = 4  # points from which the search climbs to each end of each output
VALUES = 17  # of an input that one step of the search tries
LINES = 12  # points, through which a line in each input is searched for rises and falls
ROWS = 8192  # that are evaluated at a time
SWEEPS = 8


@dataclass(eq=False)
class Found:
    """Best points so far.

    low, high          [m]: the lowest and highest outputs in float64
    at_low, at_high    [m, n]: where
    """

    kan: Kan
    box: tuple[Array, Array]
    low: Array = field(init=False)
    high: Array = field(init=False)
    at_low: Array = field(init=False)
    at_high: Array = field(init=False)

    def __post_init__(self) -> None:
        outputs, inputs = self.kan.n_outputs, self.kan.n_inputs
        self.low, self.high = np.full(outputs, np.inf), np.full(outputs, -np.inf)
        self.at_low, self.at_high = np.zeros((outputs, inputs)), np.zeros((outputs, inputs))

    def add(self, x: Array) -> Array:
        """Evaluate rows [B, n] of the box and keep the best. Returns the outputs [B, m]."""
        parts = [float64_reference.evaluate(self.kan, x[at : at + ROWS]).y for at in range(0, len(x), ROWS)]
        y = np.concatenate(parts)
        lowest, highest = y.argmin(axis=0), y.argmax(axis=0)
        for o in range(y.shape[1]):
            if y[lowest[o], o] < self.low[o]:
                self.low[o], self.at_low[o] = y[lowest[o], o], x[lowest[o]]
            if y[highest[o], o] > self.high[o]:
                self.high[o], self.at_high[o] = y[highest[o], o], x[highest[o]]
        return y

    @property
    def span(self) -> Array:
        """[m]: the found range, at least a little more than zero."""
        return np.maximum(self.high - self.low, 1e-9 * (1 + np.maximum(np.abs(self.low), np.abs(self.high))))


def random_points(box: tuple[Array, Array], count: int, rng: np.random.Generator) -> Array:
    """[count, n]: points of a box, 25% with inputs at its ends."""
    low, high = box
    x = rng.uniform(low, high, (count, len(low)))
    ends = rng.random(x.shape) < np.where(np.arange(count) % 4 == 0, 0.5, 0.0)[:, None]
    return np.clip(np.where(ends, np.where(rng.random(x.shape) < 0.5, low, high), x), low, high)


def climb(best: Found, until: float, rng: np.random.Generator) -> None:
    """Improve the best points by one input at a time, until no step helps or the time is over. `until`: of
    `time.monotonic`."""
    x = random_points(best.box, FIRST, rng)
    y = best.add(x)
    order = y.argsort(axis=0)
    outputs = range(y.shape[1])
    # Every end of every output once, before more starts of the first ones.
    for start, o, sign in itertools.product(range(STARTS), outputs, (-1, 1)):
        point = (best.at_high if sign > 0 else best.at_low)[o]
        if start:
            point = x[order[-1 - start if sign > 0 else start, o]]
        _from(best, point, o, sign, until, rng)
        if time.monotonic() > until:
            return


def _from(known: Found, start: Array, output: int, sign: int, until: float, rng: np.random.Generator) -> None:
    """Climb from one point [n] in one output, up for the sign 1 and down for -1: a coordinate search with steps that
    become shorter if no input helps any more."""
    point, reach, inputs = start.copy(), 1.0, len(start)
    best = sign * float64_reference.evaluate(known.kan, point[None]).y[0, output]
    for _ in range(SWEEPS):
        before = best
        for group in np.array_split(rng.permutation(inputs), max(1, inputs * VALUES // 512)):
            # Each input of the group by itself; then the best step of each, all together.
            trials = _trials(known.box, point, group, reach)
            heights = sign * known.add(trials)[:, output].reshape(len(group), VALUES)
            joint = point.copy()
            joint[group] = trials.reshape(len(group), VALUES, inputs)[range(len(group)), heights.argmax(axis=1), group]
            together = sign * known.add(joint[None])[0, output]
            highest = heights.max()
            if together > max(best, highest):
                point, best = joint, float(together)
            elif highest > best:
                point, best = trials[heights.argmax()], float(highest)
            if time.monotonic() > until:
                return
        if best <= before + 1e-4 * abs(before):
            if reach < 0.02:
                return
            reach /= 4


def _trials(box: tuple[Array, Array], point: Array, group: npt.NDArray[np.intp], reach: float) -> Array:
    """[G * VALUES, n]: a point with one input of a group moved by up to `reach` of its range, VALUES times each."""
    low, high = (end[group] for end in box)
    steps = np.linspace(-1, 1, VALUES) * ((high - low) * reach)[:, None]
    trials = np.tile(point, (len(group), VALUES, 1))
    trials[range(len(group)), :, group] = np.clip(point[group, None] + steps, low[:, None], high[:, None])
    return trials.reshape(-1, len(point))


@dataclass(frozen=True, slots=True, eq=False)
class Witnesses:
    """Pairs of points [n, m, 2, n] that differ in one input, where the output is certain to rise or to fall; `rises`
    and `falls` [n, m] say where there is one."""

    rises: npt.NDArray[np.bool_]
    falls: npt.NDArray[np.bool_]
    up: Array
    down: Array


def witnesses(network: Network, best: Found, until: float, rng: np.random.Generator) -> Witnesses:
    """Search lines along each input for steps where an output rises and steps where it falls, and verify them."""
    low, high = best.box
    inputs, outputs = len(low), len(best.low)
    flags = np.zeros((2, inputs, outputs), dtype=bool)
    pairs = np.zeros((2, inputs, outputs, 2, inputs))
    for at in range(inputs):
        points = random_points(best.box, LINES, rng)
        points[0] = (low + high) / 2
        lines = np.repeat(points[:, None], VALUES, axis=1)
        lines[:, :, at] = np.linspace(low[at], high[at], VALUES)
        y = best.add(lines.reshape(-1, inputs)).reshape(LINES, VALUES, outputs)
        change = np.diff(y, axis=1).reshape(-1, outputs)
        # The largest rise and fall of each output, if it exceeds the float64 errors of both outputs.
        noise = 2 * network.noise
        flags[:, at] = change.max(axis=0) > noise, change.min(axis=0) < -noise
        line, step = np.divmod(np.stack([change.argmax(axis=0), change.argmin(axis=0)]), VALUES - 1)  # [2, m]
        pairs[:, at] = np.stack([lines[line, step], lines[line, step + 1]], axis=2)
        if time.monotonic() > until:
            break
    return Witnesses(flags[0], flags[1], pairs[0], pairs[1])
