"""Coverage of a model's grids: the graph computes the nodes of each layer, which are compared with the layer's
bounds."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.manifest import Manifest
from kanexport.shared.sections import CLAMP
from kanserve.analysis import coverage
from kanserve.analysis.coverage import Bounds, Coverage, Floats, Zone, Zones
from kanserve.errors import FailedPrecondition
from kanserve.observability.metrics import Number
from kanserve.runtime.base import Session
from kanserve.scheduling import batching
from kanserve.types import Array

MARGIN = 1 / 64  # of the range of an input on the calibration rows: the largest distance of a row that is in range
ROUNDING = 1e-6  # relative, of inputs in float32


@dataclass(frozen=True, slots=True)
class LayerCoverage:
    """Coverage of the nodes of one layer. The positions of a row are joined in C order, as in `Coverage`."""

    definition: str  # bounds that the nodes are compared with
    zones: Zones  # zone of each node [B, *positions, n]
    counts: Array  # nodes per zone [B, 3]
    worst: Array  # node that is farthest out of range [B]
    cells: Floats  # its distance in grid intervals [B]


def bounds(manifest: Manifest, at: int, width: int) -> Bounds:
    """The bounds of the `width` nodes of layer `at`. Raises FailedPrecondition."""
    layer, baseline = manifest.layers[at], manifest.baseline
    clamped = at == 0 and manifest.out_of_range == CLAMP
    try:
        return coverage.bounds(layer, width, baseline.layers[at] if baseline.rows else None, clamped=clamped)
    except coverage.Unfit as error:
        raise FailedPrecondition(
            f"the steps before layer {at} in the manifest do not fit its {width} nodes",
            code="manifest-steps-invalid",
            hint="export the model again",
        ) from error


def checked_inputs(manifest: Manifest) -> list[tuple[str, int, Bounds]]:
    """Each input that has ranges: its name, the position of its first number in a row, and the ranges that the policy
    checks. Raises FailedPrecondition."""
    stored = manifest.certificate
    if stored.range_check:
        return [(manifest.input.name, 0, coverage.of_box(np.array(stored.low), np.array(stored.high)))]
    starts, start = {}, 0
    for tensor in manifest.inputs:
        starts[tensor.name] = (start, tensor.shape[-1])
        start += math.prod(tensor.shape[1:])
    return [
        (layer.node_tensor, starts[layer.node_tensor][0], bounds(manifest, at, starts[layer.node_tensor][1]))
        for at, layer in enumerate(manifest.layers)
        if layer.node_tensor in starts
    ]


def compute(
    session: Session, manifest: Manifest, known: dict[int, Bounds], rows: Mapping[str, Array], *, step: int
) -> Iterator[tuple[LayerCoverage, ...] | None]:
    """The coverage of each layer for `rows` [B, ...] by input. Yields None after each step of `step` rows, and the
    result at the end. `known`: cache of the bounds of the layers. Raises FailedPrecondition."""
    names = [layer.node_tensor for layer in manifest.layers]
    missing = [name for name in dict.fromkeys(names) if name not in rows]
    layers: list[list[LayerCoverage]] = [[] for _ in names]
    for start in range(0, len(next(iter(rows.values()))), max(1, step)):
        part = batching.select_rows(rows, start, start + max(1, step))
        values = dict(part) | (dict(zip(missing, session.run(missing, part), strict=True)) if missing else {})
        for at, name in enumerate(names):
            nodes = values[name]
            if at not in known:
                known[at] = bounds(manifest, at, nodes.shape[-1])
            limits = known[at]
            result = coverage.measure(limits, nodes.reshape(-1, nodes.shape[-1]).astype(np.float64))
            own: Coverage = result.joined(len(nodes))
            zones = result.zones.reshape(nodes.shape)
            layers[at].append(LayerCoverage(limits.definition, zones, own.counts, own.worst, own.excess))
        yield None
    joined = []
    for parts in layers:  # of consecutive rows
        arrays = [[getattr(part, name) for part in parts] for name in ("zones", "counts", "worst", "cells")]
        joined.append(LayerCoverage(parts[0].definition, *map(np.concatenate, arrays)))
    yield tuple(joined)


def _any_of_row(flags: NDArray[np.bool_], rows: int) -> NDArray[np.bool_]:
    """Whether a flag of each row is set, from flags of all positions of all rows."""
    return np.asarray(flags.reshape(rows, len(flags) // max(1, rows)).any(axis=1))


@dataclass(frozen=True, slots=True)
class OutOfRangeInput:
    """Input of a row that is out of range."""

    row: int  # index of the row
    feature: int  # index of the input, flat in C order over all inputs
    value: float  # value as the grid reads it
    first: float  # lower end of the range
    last: float  # upper end of the range


class RowRanges:
    """Ranges of a version's rows. A row is out of range if an input is out of grid, beyond the rows of the baseline, or
    beyond the calibration rows of its intervals by more than `MARGIN`.

    For a module whose layers read no input, the nodes of its first layer are in a grid and in a baseline.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest, self._bounds = manifest, dict[int, tuple[Bounds, ...]]()
        inputs = {tensor.name for tensor in manifest.inputs}
        layers = [at for at, layer in enumerate(manifest.layers) if layer.node_tensor in inputs]
        self._layers = layers or list(range(len(manifest.layers)))[:1]
        self._box: tuple[Floats, Floats] | None = None
        if manifest.intervals.low:
            low, high = np.array(manifest.intervals.low), np.array(manifest.intervals.high)
            room = MARGIN * (high - low) + ROUNDING * np.maximum(np.abs(low), np.abs(high))
            self._box = low - room, high + room
        nodes = (manifest.layers[at].node_tensor for at in self._layers)
        self.missing = tuple(name for name in nodes if name not in inputs)

    @property
    def ready(self) -> bool:
        """Whether `outside` has little to compute: it knows the ranges, and the graph need not run."""
        return not self.missing and len(self._bounds) == len(self._layers)

    def outside(self, rows: Mapping[str, Array]) -> NDArray[np.bool_] | None:
        """Whether each of `rows` [B, ...] by tensor, with the `missing` tensors, is out of range [B]. None: no range is
        known."""
        mask = np.zeros(len(next(iter(rows.values()))), np.bool_)
        known, start = self._box is not None, 0
        for tensor in self._manifest.inputs if self._box is not None else ():
            numbers = rows[tensor.name].reshape(len(mask), math.prod(tensor.shape[1:])).astype(np.float64)
            low, high = (end[start : start + numbers.shape[1]] for end in self._box or ())
            mask |= ~((numbers >= low) & (numbers <= high)).all(axis=1)
            start += numbers.shape[1]
        for at in self._layers:
            values = rows[self._manifest.layers[at].node_tensor]
            nodes = values.reshape(-1, values.shape[-1]).astype(np.float64)
            for limits in self._of_layer(at, nodes.shape[1]):
                mask |= _any_of_row(coverage.outside(limits, nodes), len(mask))
                known = True
        return mask if known else None

    def _of_layer(self, at: int, width: int) -> tuple[Bounds, ...]:
        """The known ranges of the `width` nodes of a layer."""
        if at not in self._bounds:
            baseline, known = self._manifest.baseline, []
            with contextlib.suppress(FailedPrecondition):  # its steps are unknown, and so is the grid
                known.append(bounds(self._manifest, at, width))
            if baseline.rows and len(baseline.layers[at].counts) == width:
                known.append(coverage.of_baseline(baseline.layers[at]))
            scaled = (limits for limits in known if any(np.isfinite(scale.low).any() for scale in limits.scales))
            self._bounds[at] = tuple(scaled)
        return self._bounds[at]


class InputRangeGuard:
    """Guard that flags or rejects rows with inputs out of range, as the export requires. `rows` counts them. Raises
    FailedPrecondition for an inconsistent manifest."""

    def __init__(self, manifest: Manifest, rows: Number) -> None:
        self.policy, self.rows = manifest.out_of_range, rows
        self._parts = checked_inputs(manifest)

    def outside(self, rows: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Whether each of `rows` [B, ...] by input has an input out of range [B]."""
        mask = np.zeros(len(next(iter(rows.values()))), np.bool_)
        for name, _, limits in self._parts:
            vectors = rows[name].reshape(-1, rows[name].shape[-1]).astype(np.float64)
            mask |= _any_of_row(coverage.outside(limits, vectors), len(mask))
        return mask

    def place(self, rows: Mapping[str, Array], row: int) -> OutOfRangeInput:
        """The input of a row that is farthest out of range."""
        for name, first, limits in self._parts:
            nodes = rows[name][row : row + 1]
            vectors = nodes.reshape(-1, nodes.shape[-1]).astype(np.float64)
            result = coverage.measure(limits, vectors).joined(1)
            if (result.zones == Zone.OUTSIDE).any():
                at = int(np.where(result.zones[0] == Zone.OUTSIDE, result.cells[0], -1.0).argmax())
                position, node = divmod(at, nodes.shape[-1])
                return OutOfRangeInput(row, first + at, *coverage.placed(limits, vectors[position], node))
        raise AssertionError("the row is not outside")
