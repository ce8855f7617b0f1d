"""Branch and bound: boxes that cover the whole box, split where the bounds are worst, until a time is over."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.certify.propagation import Network
from kanexport.certify.search import Found, Witnesses

Array = npt.NDArray[np.float64]

BATCH = 24  # boxes that are split at a time
CLOSE = 1e-3  # of the found range: bounds so near are close enough
NUMBERS = 4e7  # of the frontier
WORK = 4e6  # numbers of one layer at a time


@dataclass(eq=False)
class Frontier:
    """Boxes that cover the box of the network, with bounds.

    low, high  [F, n]
    y_low, y_high  [F, m]: of the outputs of the served graph
    down, up  [F, n, m]: of the derivative
    """

    low: Array
    high: Array
    y_low: Array
    y_high: Array
    down: Array
    up: Array

    def __len__(self) -> int:
        return len(self.low)

    def replaced(self, at: npt.NDArray[np.intp], others: Frontier) -> Frontier:
        """The boxes without those at some places, and other boxes after them."""
        pairs = zip(self.parts(), others.parts(), strict=True)
        return Frontier(*(np.concatenate([np.delete(own, at, axis=0), other]) for own, other in pairs))

    def parts(self) -> tuple[Array, ...]:
        """All arrays, one entry per box."""
        return self.low, self.high, self.y_low, self.y_high, self.down, self.up

    def bounds(self) -> tuple[Array, Array, Array, Array]:
        """Bounds for the whole box: of the outputs [m] twice, and of the derivatives [n, m] twice."""
        return self.y_low.min(axis=0), self.y_high.max(axis=0), self.down.min(axis=0), self.up.max(axis=0)


def bounded(network: Network, low: Array, high: Array) -> Frontier:
    """The boxes from low to high [F, n] with their bounds."""
    nodes = network.enclose(low, high)
    return Frontier(low, high, nodes.low, nodes.high, nodes.down, nodes.up)


def refine(network: Network, best: Found, seen: Witnesses, until: float) -> tuple[Frontier, int]:
    """Split boxes until the time is over or all bounds are close. Returns the boxes and how many were evaluated.
    `until`: of `time.monotonic`."""
    frontier = bounded(network, network.low[None], network.high[None])
    size = max(stage.table.x.shape[0] * stage.table.edges.destinations for stage in network.stages)
    batch = int(np.clip(WORK / size, 1, BATCH))
    evaluated, turn = 1, 0
    inputs, outputs = frontier.down.shape[1:]
    limit = int(NUMBERS / (2 * inputs * outputs + 2 * inputs + 2 * outputs))
    while time.monotonic() < until and len(frontier) + batch < limit:
        goals = [_range_gap(frontier, best, network.slack), _sign_gap(frontier, seen)]
        goal = goals[turn % 2] if goals[turn % 2].max() > 0 else goals[(turn + 1) % 2]
        turn += 1
        if not goal.max() > 0:
            break
        worst = goal.argsort()[-batch:]
        worst = worst[goal[worst] > 0]
        children = _children(network, frontier, worst, best)
        frontier = frontier.replaced(worst, children)
        evaluated += len(children)
    return frontier, evaluated


def _children(network: Network, frontier: Frontier, worst: npt.NDArray[np.intp], best: Found) -> Frontier:
    """Both halves of boxes, along the input that changes the outputs most. A half has no worse bounds than its box."""
    low, high = frontier.low[worst], frontier.high[worst]
    steep = np.maximum(np.abs(frontier.down[worst]), np.abs(frontier.up[worst])) / best.span
    effect = (steep.max(axis=2) + 1e-9) * (high - low)
    axis, rows = effect.argmax(axis=1), np.arange(len(worst))
    middle = (low[rows, axis] + high[rows, axis]) / 2
    left, right = high.copy(), low.copy()
    left[rows, axis] = right[rows, axis] = middle
    lows, highs = np.concatenate([low, right]), np.concatenate([left, high])
    best.add((lows + highs) / 2)
    new, both = bounded(network, lows, highs), np.concatenate([worst, worst])
    return Frontier(
        lows,
        highs,
        np.maximum(new.y_low, frontier.y_low[both]),
        np.minimum(new.y_high, frontier.y_high[both]),
        np.maximum(new.down, frontier.down[both]),
        np.minimum(new.up, frontier.up[both]),
    )


def _range_gap(frontier: Frontier, best: Found, slack: Array) -> Array:
    """[F]: how far the bounds of a box exceed what was found and the float32 error, in found ranges; zero if that is
    close enough."""
    above = (frontier.y_high - best.high - slack) / best.span
    below = (best.low - frontier.y_low - slack) / best.span
    gap = np.maximum(above, below).max(axis=1)
    return np.where(gap > CLOSE, gap, 0.0)


def _sign_gap(frontier: Frontier, seen: Witnesses) -> Array:
    """[F]: how far derivatives of a box contradict a direction that no point contradicts, as parts of the largest
    derivative."""
    largest = np.maximum(np.abs(frontier.down), np.abs(frontier.up)).max(axis=0) + 1e-300
    rising, falling = ~seen.falls & seen.rises, ~seen.rises & seen.falls
    wrong = np.where(rising, -frontier.down, np.where(falling, frontier.up, 0.0)) / largest
    # Pairs that many boxes contradict by much may never be decided; near ones come first.
    worst = wrong.max(axis=0)
    share = np.where((worst > 0) & (wrong > 0), wrong / (worst + 1e-300) * (1.5 - np.minimum(worst, 1)), 0.0)
    return np.asarray(share.max(axis=(1, 2)))
