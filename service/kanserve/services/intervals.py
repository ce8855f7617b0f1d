"""Use case of prediction intervals: the optional output `kan.interval`, and whether it is unreliable because of drift
or of rows out of range.

Only requests for intervals pay for them. The drift is that of the latest traffic, which the sampler computes anyway.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.sections import LAC, Intervals
from kanserve.analysis import intervals
from kanserve.analysis.intervals import NAME, OUT_OF_RANGE
from kanserve.errors import BadRequest, FailedPrecondition
from kanserve.insight.coverage import RowRanges
from kanserve.models.model import Model
from kanserve.scheduling import batching
from kanserve.services import validation
from kanserve.types import Array, InferRequest, ModelInfo, OutputTensor, ParameterValue

LARGE = 2**14  # numbers; more are computed off the event loop
BEYOND = (
    "rows are out of range: an input is out of grid, or beyond the rows of the export, so the intervals of "
    "these rows may not have the coverage"
)


@dataclass(frozen=True, slots=True)
class RowIntervals:
    """Intervals of B explained rows."""

    method: str  # as in the manifest
    coverage: float  # as in the manifest
    values: Array  # float64 [B, O, 2] for the explained outputs; with LAC uint8 [B, C]
    state: Reliability  # whether they are reliable


@dataclass(frozen=True, slots=True)
class Reliability:
    """Whether intervals are reliable."""

    # False if a row is out of range, or if the latest traffic drifted from the baseline; None if no row is out of
    # range and the server does not measure drift.
    reliable: bool | None
    note: str = ""  # reason, if they are unreliable or if it is unknown

    def of_rows(self, outside: NDArray[np.bool_] | None) -> Reliability:
        """The reliability for rows with these marks [B]; None: their range is unknown."""
        if outside is None or not outside.any():
            return self
        return Reliability(False, f"{BEYOND}{'; ' if self.note else ''}{self.note}")


def requested(info: ModelInfo, request: InferRequest) -> bool:
    """Whether a request names the optional output. Raises FailedPrecondition for a model without intervals, BadRequest
    for a number of classes."""
    if not names(info, request, NAME):
        return False
    section(info)
    return True


def names(info: ModelInfo, request: InferRequest, output: str) -> bool:
    """Whether a request names an optional output, which the graph does not have. Raises BadRequest for a number of
    classes."""
    if output not in request.outputs or any(tensor.name == output for tensor in info.outputs):
        return False
    if output in dict(request.classes):
        raise BadRequest(
            f"output '{output}' cannot be combined with the parameter {validation.CLASSES}",
            code="classification-not-supported",
            hint=f"request {output} without the parameter {validation.CLASSES}",
        )
    return True


def section(info: ModelInfo) -> Intervals:
    """The intervals of a model. Raises FailedPrecondition if it has none."""
    if info.manifest is None or not info.manifest.intervals.method:
        raise FailedPrecondition(
            f"model '{info.name}' has no prediction intervals, because its export had no calibration rows with targets",
            code="intervals-missing",
            hint="export the model with --calibration rows.npz --coverage 0.9",
        )
    return info.manifest.intervals


def row_bytes(info: ModelInfo) -> int:
    """Bytes of the intervals of one row, and of its mark."""
    numbers = math.prod(info.outputs[0].shape[1:])
    return 1 + (numbers if section(info).method == LAC else 2 * 8 * numbers)


async def tensor(info: ModelInfo, outputs: Array) -> OutputTensor:
    """The optional output, for the first output of the model [B, ...]. Raises FailedPrecondition."""
    own = section(info)
    large = outputs.size > LARGE
    values = await asyncio.to_thread(intervals.of, own, outputs) if large else intervals.of(own, outputs)
    datatype = "UINT8" if own.method == LAC else "FP64"
    return OutputTensor(NAME, datatype, values.shape, validation.packed(datatype, values))


def marks(outside: NDArray[np.bool_] | None) -> list[OutputTensor]:
    """The output that marks rows [B] out of range; none if their range is unknown."""
    if outside is None:
        return []
    return [OutputTensor(OUT_OF_RANGE, "UINT8", outside.shape, validation.packed("UINT8", outside))]


def parameters(model: Model, outside: NDArray[np.bool_] | None) -> list[tuple[str, ParameterValue]]:
    """The response parameters about the intervals of rows with these marks [B]. Raises FailedPrecondition."""
    own, state = section(model.info), reliability(model).of_rows(outside)
    facts: list[tuple[str, ParameterValue]] = [(f"{NAME}_method", own.method), (f"{NAME}_coverage", own.coverage)]
    if outside is not None:
        facts.append((f"{OUT_OF_RANGE}_rows", int(np.count_nonzero(outside))))
    if state.reliable is not None:
        facts.append((f"{NAME}_reliable", state.reliable))
    return [*facts, (f"{NAME}_note", state.note)] if state.note else facts


async def out_of_range(model: Model, rows: Mapping[str, Array]) -> NDArray[np.bool_] | None:
    """Whether each of `rows` [B, ...] by input is out of range [B]; None if no range is known. Runs the graph of a
    module whose layers read no input on a thread. Raises BackendError, ResourceExhausted."""
    ranges = model.row_ranges
    if ranges is None:
        return None
    if ranges.ready and sum(values.size for values in rows.values()) <= LARGE:
        return ranges.outside(rows)
    return await asyncio.to_thread(_outside, model, ranges, rows)


def _outside(model: Model, ranges: RowRanges, rows: Mapping[str, Array]) -> NDArray[np.bool_] | None:
    nodes = dict(zip(ranges.missing, _traced(model, ranges.missing, rows), strict=True)) if ranges.missing else {}
    return ranges.outside({**rows, **nodes})


async def of_rows(
    model: Model, rows: Mapping[str, Array], outputs: Sequence[int], outside: NDArray[np.bool_] | None
) -> RowIntervals | None:
    """The intervals of rows [B, ...] by input, for some numbers of the first output; None for a model without
    intervals, or whose output has several axes. `outside`: as `out_of_range` returns it. Runs the served graph on a
    thread. Raises BackendError, ResourceExhausted."""
    info, manifest = model.info, model.info.manifest
    if manifest is None or not manifest.intervals.method or len(info.outputs[0].shape) != 2:
        return None
    own = manifest.intervals
    (predicted,) = await asyncio.to_thread(_traced, model, (info.outputs[0].name,), rows)
    values, state = intervals.of(own, predicted), reliability(model).of_rows(outside)
    return RowIntervals(own.method, own.coverage, values if own.method == LAC else values[:, list(outputs)], state)


def _traced(model: Model, names: Sequence[str], rows: Mapping[str, Array]) -> list[Array]:
    """Tensors [B, ...] of the served graph, in batches that the model accepts."""
    count, step = max(1, len(next(iter(rows.values())))), max(1, model.info.max_batch_size)
    parts = [model.session.run(names, batching.select_rows(rows, at, at + step)) for at in range(0, count, step)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def reliability(model: Model) -> Reliability:
    """The reliability of a model's intervals, by the drift of its latest sampled traffic."""
    manifest, live = model.info.manifest, model.live
    if manifest is None or not manifest.baseline.rows:
        return Reliability(None, "drift is not measured: the export has no baseline rows")
    if live is None:
        return Reliability(None, f"drift is not measured: {model.blind or 'the version is being unloaded'}")
    drift = live.drift
    if drift is None:
        return Reliability(None, "drift is not measured: the server has sampled no rows yet")
    if drift.ratio <= 1:
        return Reliability(True)
    return Reliability(
        False,
        f"the latest {drift.rows} sampled rows drifted from the baseline: the largest PSI of {drift.place} is "
        f"{drift.ratio:.3g} times its no-drift threshold, so the coverage of the intervals may be lower",
    )
