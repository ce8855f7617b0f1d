"""Certificate of a network over a box: what is guaranteed, what was best, and what is assumed."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport.certify import branch, directions, search
from kanexport.certify.directions import Directions
from kanexport.certify.edges import refuse
from kanexport.certify.propagation import Network
from kanexport.certify.search import Found
from kanexport.errors import OptionError
from kanexport.ir.model import Kan
from kanexport.ir.scaling import Standardize
from kanexport.ir.steps import Affine, Clip, Select
from kanexport.shared.sections import DECREASING as DECREASING
from kanexport.shared.sections import INCREASING as INCREASING
from kanexport.shared.sections import NEITHER as NEITHER
from kanexport.shared.sections import UNDECIDED as UNDECIDED

Array = npt.NDArray[np.float64]

SEARCHING, WITNESSES = 0.25, 0.2  # of the budget, at most
METHOD = "affine and interval enclosure with branch and bound"
ASSUMPTIONS = (
    "inputs are float32 values in the box",
    "the graph is a float32 graph that `kanserve export` writes from this checkpoint with the same options, on a CPU; "
    "quantized graphs, graphs in float64 and reduced precision of an accelerator, such as TF32, are not covered",
    "the runtime rounds sums and products as IEEE 754 requires, in any order, and its elementary functions have an "
    "error of at most 1e-6 * max(1, |f|)",
    "numpy computes elementary functions in float64 with an error of at most four units in the last place",
    "directions and Lipschitz bounds are those of the function of the checkpoint; the graph differs from it by at most "
    "float32_slack",
)


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """Certificate of a network with n inputs and m outputs over a box.

    low, high              [n]: the box
    y_low, y_high          [m]: no output of the served graph is outside
    found_low, found_high  [m]: outputs of the network at `at_low` and `at_high` [m, n]
    direction              [n][m]: INCREASING, DECREASING, NEITHER or UNDECIDED
    lipschitz              [n, m]: the output changes by at most this per unit of the input
    slack                  [m]: how far the served graph may be from the network
    edges                  of each layer [I, O, 4]: the lowest and highest value and slope of each edge
    edge_directions        of each layer, the directions of the edges
    boxes                  how many boxes cover the box
    """

    low: Array
    high: Array
    y_low: Array
    y_high: Array
    found_low: Array
    found_high: Array
    at_low: Array
    at_high: Array
    direction: tuple[tuple[str, ...], ...]
    witnesses: search.Witnesses
    lipschitz: Array
    slack: Array
    edges: tuple[Array, ...]
    edge_directions: tuple[Directions, ...]
    boxes: int
    seconds: float


def certify(kan: Kan, low: Array, high: Array, budget: float, seed: int = 0) -> Certificate:
    """The certificate for inputs from low to high [n], within about `budget` seconds. Raises InvalidKan for a network
    that has no certificate, and OptionError for a box or budget that is not valid."""
    _check(kan, low, high, budget)
    start, rng = time.monotonic(), np.random.default_rng(seed)
    network = Network.of(kan, low, high)
    best = Found(kan, (low, high))
    search.climb(best, start + SEARCHING * budget, rng)
    seen = search.witnesses(network, best, time.monotonic() + WITNESSES * budget, rng)
    frontier, _ = branch.refine(network, best, seen, start + budget)
    y_low, y_high, down, up = frontier.bounds()
    words = np.where(seen.rises & seen.falls, NEITHER, UNDECIDED).astype(object)
    words[up <= 0] = DECREASING
    words[down >= 0] = INCREASING
    return Certificate(
        low=low,
        high=high,
        y_low=y_low,
        y_high=y_high,
        found_low=best.low,
        found_high=best.high,
        at_low=best.at_low,
        at_high=best.at_high,
        direction=tuple(tuple(map(str, row)) for row in words),
        witnesses=seen,
        lipschitz=np.maximum(np.abs(down), np.abs(up)),
        slack=np.minimum(network.slack, y_high - y_low),  # both outputs are in the range
        edges=tuple(np.stack(stage.table.facts(), axis=2) for stage in network.stages),
        edge_directions=tuple(directions.of_edges(stage.table) for stage in network.stages),
        boxes=len(frontier),
        seconds=time.monotonic() - start,
    )


def _check(kan: Kan, low: Array, high: Array, budget: float) -> None:
    if not (np.isfinite(budget) and budget > 0):
        raise OptionError(
            f"the budget is {budget:g} seconds, expected a positive number",
            code="budget-out-of-range",
            hint="pass a time such as --budget 60s",
        )
    if low.shape != (kan.n_inputs,) or high.shape != low.shape:
        raise OptionError(
            f"the box has {len(low)} columns, the network has {kan.n_inputs} inputs",
            code="box-not-valid",
            hint="pass rows with one column per input",
        )
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        at = int(np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (low <= high)))[0])
        raise OptionError(
            f"input {at} of the box is from {low[at]} to {high[at]}, expected finite numbers in ascending order",
            code="box-not-valid",
            hint="remove rows with values that are not finite",
        )


def document(certificate: Certificate, features: tuple[str, ...], classes: tuple[str, ...]) -> dict[str, Any]:
    """The certificate as JSON. `features`, `classes`: names of the inputs and outputs."""
    c = certificate
    monotone = []
    for (i, feature), (o, name) in itertools.product(enumerate(features), enumerate(classes)):
        entry: dict[str, Any] = {"input": feature, "output": name, "direction": c.direction[i][o]}
        if c.direction[i][o] == NEITHER:  # two pairs of points that differ in the input
            entry["rises"], entry["falls"] = c.witnesses.up[i, o].tolist(), c.witnesses.down[i, o].tolist()
        monotone.append(entry)
    return {
        "box": {"low": c.low.tolist(), "high": c.high.tolist()},
        "outputs": [
            {
                "name": name,
                "low": float(c.y_low[o]),
                "high": float(c.y_high[o]),
                "found_low": float(c.found_low[o]),
                "found_high": float(c.found_high[o]),
                "at_low": c.at_low[o].tolist(),
                "at_high": c.at_high[o].tolist(),
                "float32_slack": float(c.slack[o]),
            }
            for o, name in enumerate(classes)
        ],
        "monotone": monotone,
        "lipschitz": [
            {"input": feature, "output": name, "bound": float(c.lipschitz[i, o])}
            for i, feature in enumerate(features)
            for o, name in enumerate(classes)
        ],
        "method": METHOD,
        "assumptions": list(ASSUMPTIONS),
        "boxes": c.boxes,
        "seconds": c.seconds,
    }


def grid_box(kan: Kan) -> tuple[Array, Array]:
    """The grid of each input [n] twice, in the units of the inputs; [-1, 1] for an input that no edge reads. Raises
    InvalidKan if a step before the first layer has no inverse."""
    first = kan.layers[0]
    if any(step.mixes for term in first.terms for step in term.pre_steps):
        raise refuse("the first layer normalizes its inputs, so that they have no grid; pass --box with rows")
    low, high = first.support().core
    for step in reversed(first.pre_steps):
        if isinstance(step, Select):
            low, high = _before(step, low, high, kan.n_inputs)
        elif isinstance(step, Standardize):
            low, high = low * step.scale + step.offset, high * step.scale + step.offset
        elif isinstance(step, Affine) and (step.scale != 0).all():
            ends = (low - step.bias) / step.scale, (high - step.bias) / step.scale
            low, high = np.minimum(*ends), np.maximum(*ends)
        elif not isinstance(step, Clip):
            raise refuse(f"a step of kind {step.describe().kind!r} before the first layer has no grid")
    return low.astype(np.float64), high.astype(np.float64)


def _before(step: Select, low: Array, high: Array, width: int) -> tuple[Array, Array]:
    """The box before a selection. An input that is several sources has the range of all of them."""
    if list(step.indices) == list(range(width)):
        return low, high
    before_low, before_high = np.full(width, np.inf), np.full(width, -np.inf)
    np.minimum.at(before_low, list(step.indices), low)
    np.maximum.at(before_high, list(step.indices), high)
    unread = before_low > before_high
    return np.where(unread, -1.0, before_low), np.where(unread, 1.0, before_high)
