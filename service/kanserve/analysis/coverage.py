"""Grid coverage: the position of each input node of a layer relative to its grid, and its distance from the grid.

    inside      on the grid itself
    extension   on the extended grid, where the functions of the outermost grid intervals are not zero
    outside     beyond it, where only an edge's base is left; values that are not numbers are infinitely far outside
    unknown     no edge reads the node, or it has no range

A node is compared with the grids of all bases that read it, in the units that they read: the steps before a basis,
such as a normalisation, apply first. The grid that it is farthest from decides. A node without a grid is compared
with its range in the baseline rows of the export (`--baseline`). That range has no extension, and a cell is one of
its histogram bins. `Definition` names the range.

Shapes: N vectors of n nodes; S sources.
"""

from __future__ import annotations

import enum
import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared import grids, step_rules
from kanexport.shared.manifest import LayerInfo, NodeStep
from kanexport.shared.sections import NodeBaseline
from kanserve.analysis import curves

NEAR = 1e-6  # of a grid interval: largest distance of a knot and a value that only rounding causes
OPEN = sys.float_info.max / 4  # end of an open range
NOWHERE = -1  # as a node: no node is out of its grid

Floats = NDArray[np.float64]
Zones = NDArray[np.uint8]


class Unfit(ValueError):
    """Steps before a layer that do not fit its input nodes."""


class Zone(enum.IntEnum):
    """Position of a node relative to its range; a larger value is farther out."""

    UNKNOWN, INSIDE, EXTENSION, OUTSIDE = range(4)


class Definition(enum.StrEnum):
    """Origin of the range of a node."""

    GRID = "grid"
    CERTIFICATE = "certificate"
    REFERENCE = "reference"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Scale:
    """Ranges of the `nodes` [S] of a layer after the steps `pre_steps`. All other arrays are [S].

    low, high    the grid
    first, last  the extended grid; NaN if there is none
    cell         width of a grid interval
    units        of the values that the ranges read, by source; None if they are not in proportion to the nodes
    """

    pre_steps: tuple[NodeStep, ...]
    nodes: NDArray[np.intp]
    first: Floats
    low: Floats
    high: Floats
    last: Floats
    cell: Floats
    units: tuple[grids.SourceUnits, ...] | None = None

    def read(self, nodes: Floats) -> Floats:
        """The values [N, S] that the ranges read, from nodes [N, n]. Raises steps.UnknownStep."""
        for step in self.pre_steps:
            nodes = step_rules.evaluate(step, nodes)
        return nodes if len(self.pre_steps) else nodes[:, self.nodes]


@dataclass(frozen=True, slots=True)
class Bounds:
    """Ranges of the nodes of a layer: all scales, and the origin [n] of each node's range."""

    scales: tuple[Scale, ...]
    definitions: tuple[Definition, ...]

    @property
    def definition(self) -> str:
        """Origin of the layer's ranges, such as "grid"; "grid+reference" if only some nodes have a grid."""
        kinds = sorted(set(self.definitions) - {Definition.NONE})
        return "+".join(kinds) or str(Definition.NONE)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Positions of nodes."""

    zones: Zones  # [N, n], the zone of each node
    cells: Floats  # [N, n], its distance from the grid in grid intervals; 0 in grid

    def joined(self, rows: int) -> Coverage:
        """The positions with the vectors of a row joined [rows, positions * n]."""
        return Coverage(self.zones.reshape(rows, -1), self.cells.reshape(rows, -1))

    @property
    def counts(self) -> NDArray[np.int32]:
        """Number of nodes in grid, in the extended grid and out of grid [N, 3]."""
        zones = (Zone.INSIDE, Zone.EXTENSION, Zone.OUTSIDE)
        return np.stack([(self.zones == zone).sum(axis=1) for zone in zones], axis=1).astype(np.int32)

    @property
    def worst(self) -> NDArray[np.int32]:
        """The node farthest out of its grid [N], the first of several; NOWHERE without one."""
        if not self.cells.shape[1]:
            return np.full(len(self.cells), NOWHERE, np.int32)
        return np.where(self.excess > 0, self.cells.argmax(axis=1), NOWHERE).astype(np.int32)

    @property
    def excess(self) -> Floats:
        """Distance of the farthest node from its grid, in grid intervals [N]."""
        return np.asarray(self.cells.max(axis=1, initial=0.0))


# radon: the grids, then the baseline of the nodes without one.
def bounds(layer: LayerInfo, width: int, baseline: NodeBaseline | None, *, clamped: bool = False) -> Bounds:
    """Ranges of the `width` input nodes of a layer. Raises Unfit.

    baseline  statistics of the nodes in the baseline rows of the export
    clamped   True if the layer's last step before its edges clamps its nodes to the grid; that step is then ignored
    """
    pre_steps = layer.pre_steps[:-1] if clamped else layer.pre_steps
    used = np.ones(layer.sources, np.bool_)  # sources that an edge reads
    if layer.mask:
        used = np.asarray((np.array(layer.mask) != 0).any(axis=1))
        for edge in layer.symbolic:
            used[edge.source] |= edge.mask != 0
    try:
        columns = curves.columns(layer)  # the node of each source after the steps of the layer
    except IndexError as error:
        raise Unfit from error
    if len(columns) != layer.sources or not all(0 <= at < width for at in columns):
        raise Unfit
    nodes = np.array(columns, np.intp)
    scales = [scale for scale in _of_grids(layer, pre_steps, nodes, used) if _fits(scale, width)]
    gridded = np.zeros(width, np.bool_)
    for scale in scales:
        gridded[nodes[np.isfinite(scale.low)]] = True
    needed = np.zeros(width, np.bool_)
    needed[nodes[used]] = True
    observed = None
    if baseline is not None and baseline.cells:  # from the first bin to the last
        ends = np.array([(row[0], row[-1], (row[-1] - row[0]) / max(1, len(row) - 1)) for row in baseline.cells])
        low, high, cell = np.where((needed & ~gridded)[:, None], ends, np.nan).T
        observed = Scale((), np.arange(width), low, low, high, high, cell)
    known = np.isfinite(observed.low) if observed is not None else np.zeros(width, np.bool_)
    definitions = np.where(gridded, Definition.GRID, np.where(known, Definition.REFERENCE, Definition.NONE))
    if observed is not None and known.any():
        scales.append(observed)
    return Bounds(tuple(scales), tuple(map(Definition, definitions.tolist())))


def of_box(low: Floats, high: Floats) -> Bounds:
    """Ranges of inputs in a box [n], without a tolerance. A value outside is infinitely far outside."""
    nodes = np.arange(len(low))
    scale = Scale((), nodes, low, low, high, high, np.zeros(len(low)))
    return Bounds((scale,), (Definition.CERTIFICATE,) * len(low))


def of_baseline(baseline: NodeBaseline) -> Bounds:
    """Ranges of the nodes in the baseline: from the first cell with a value to the last one. A side is open if the
    baseline has values beyond its cells. A node without values has no range."""
    cells = baseline.cells * len(baseline.counts) if len(baseline.cells) == 1 else baseline.cells
    ends = []
    for row, counts in zip(cells, baseline.counts, strict=True):
        filled = np.flatnonzero(counts)
        if len(row) and len(filled):
            whole = (-OPEN, *row, OPEN)
            ends.append((whole[filled[0]], whole[filled[-1] + 1], (row[-1] - row[0]) / max(1, len(row) - 1)))
        else:
            ends.append((math.nan,) * 3)
    low, high, cell = np.array(ends, np.float64).reshape(-1, 3).T
    scale = Scale((), np.arange(len(ends)), low, low, high, high, cell)
    return Bounds((scale,), (Definition.REFERENCE,) * len(ends))


def measure(limits: Bounds, nodes: NDArray[np.floating]) -> Coverage:
    """Positions of nodes [N, n]."""
    values = nodes.astype(np.float64)
    zones = np.full(values.shape, Zone.UNKNOWN, np.uint8)
    cells = np.zeros(values.shape)
    for scale in limits.scales:
        zone, beyond = _locate(scale, values)
        # A node may be several sources.
        np.maximum.at(zones.T, scale.nodes, zone.T)
        np.maximum.at(cells.T, scale.nodes, beyond.T)
    return Coverage(zones, cells)


def outside(limits: Bounds, nodes: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Flags [N] of the vectors of nodes [N, n] with an out-of-range node. It computes only that, for every request."""
    values = nodes.astype(np.float64)
    flags = np.zeros(len(values), np.bool_)
    for scale in limits.scales:
        with np.errstate(all="ignore"):
            read, room = scale.read(values), scale.cell * NEAR
            there = (read >= scale.first - room) & (read <= scale.last + room)
        flags |= (~there & np.isfinite(scale.low)).any(axis=1)
    return flags


def placed(limits: Bounds, nodes: NDArray[np.floating], node: int) -> tuple[float, float, float]:
    """Position of an out-of-range node, of nodes [n]: its value and both ends of its extended range. They are in the
    units of the node, or of what the grid reads if these are not in proportion. With several grids, the one that it is
    farthest from."""
    places: list[tuple[float, tuple[float, float, float]]] = []
    values = nodes.astype(np.float64)[None]
    for scale in limits.scales:
        zones, beyond = _locate(scale, values)
        with np.errstate(all="ignore"):
            read = scale.read(values)
        for at in np.flatnonzero((scale.nodes == node) & (zones[0] == Zone.OUTSIDE)).tolist():
            place = (float(read[0, at]), float(scale.first[at]), float(scale.last[at]))
            if scale.units is not None:
                first, last = scale.units[at].in_node_units(place[1:])
                place = (float(values[0, node]), first, last)
            places.append((float(beyond[0, at]), place))
    return max(places)[1]


def _locate(scale: Scale, values: Floats) -> tuple[Zones, Floats]:
    """Zones and distances of values, both [N, S]."""
    with np.errstate(all="ignore"):
        read = scale.read(values)
        room = scale.cell * NEAR
        beyond = np.maximum(scale.low - read, read - scale.high)
        inside, there = beyond <= room, (read >= scale.first - room) & (read <= scale.last + room)
        cells = np.where(inside, 0.0, np.where(np.isfinite(beyond), beyond / scale.cell, np.inf))
    zone = np.where(inside, Zone.INSIDE, np.where(there, Zone.EXTENSION, Zone.OUTSIDE)).astype(np.uint8)
    known = np.isfinite(scale.low)
    return np.where(known, zone, np.uint8(Zone.UNKNOWN)), np.where(known, cells, 0.0)


def _of_grids(
    layer: LayerInfo, pre_steps: tuple[NodeStep, ...], nodes: NDArray[np.intp], used: NDArray[np.bool_]
) -> list[Scale]:
    """Scales of all bases that have a grid."""
    scales = []
    for basis in layer.bases:
        if basis.per_edge or not basis.knots:
            continue
        known = [grids.of_knots(basis.kind, basis.functions, row) for row in basis.knots]
        rows = known * layer.sources if len(known) == 1 else known
        ends = [(grid.first, grid.low, grid.high, grid.last, grid.cell) if grid else (np.nan,) * 5 for grid in rows]
        table = np.where(used[:, None], np.array(ends), np.nan)
        first, low, high, last, cell = table.T
        units = None if basis.pre_steps else grids.sources(layer)
        units = units if units is not None and len(units) == layer.sources else None  # else not in proportion
        scales.append(Scale((*pre_steps, *basis.pre_steps), nodes, first, low, high, last, cell, units))
    return [scale for scale in scales if np.isfinite(scale.low).any()]


def _fits(scale: Scale, width: int) -> bool:
    """True if this program knows the steps before the basis. Raises Unfit."""
    try:
        with np.errstate(all="ignore"):
            read = scale.read(np.zeros((1, width)))
    except step_rules.UnknownStep:
        return False
    except (IndexError, ValueError) as error:
        raise Unfit from error
    if read.shape != (1, len(scale.nodes)):
        raise Unfit
    return True
