"""Grid coverage and feature attributions as plain arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.cli.suggest import how_to_install
from kanserve.analysis.coverage import Zone
from kanserve.client import encoding
from kanserve.client.encoding import index_of, of_frame, packed
from kanserve.client.errors import ArgumentError
from kanserve.client.results import Answer, check_rows, check_version
from kanserve.pb import kan_pb2 as kan
from kanserve.types import Description, LayerPath

PARAMETER = "kan.coverage"
UNKNOWN, INSIDE, EXTENSION, OUTSIDE = map(int, Zone)  # the zones


@dataclass(frozen=True, slots=True)
class Coverage:
    """Grid coverage of B rows in L layers.

    definitions  [L], the origin of the range of each layer's input nodes: grid, reference, grid+reference or none
    counts       [B, L, 3], number of nodes in grid, on the extended grid and out of grid
    worst        [B, L], the node that is farthest beyond its grid; -1: none is
    cells        [B, L], its distance from the grid in grid intervals
    zones        by layer, [B, *positions, n]: 0 unknown, 1 in grid, 2 extended grid, 3 out of grid
    """

    version: str
    definitions: tuple[str, ...]
    counts: NDArray[np.int32]
    worst: NDArray[np.int32]
    cells: NDArray[np.float64]
    zones: tuple[NDArray[np.uint8], ...]

    @property
    def out_of_grid(self) -> NDArray[np.bool_]:
        """Flags [B, L]: whether a row has a node out of grid in each layer."""
        return np.asarray(self.counts[:, :, 2] > 0)


def coverage_of(answer: Answer, rows: int) -> Coverage:
    """Grid coverage that the response for some rows has. Raises KeyError without one, ValueError for another number of
    rows."""
    arrays: dict[str, Any] = {name: answer.outputs[f"{PARAMETER}.{name}"] for name in ("counts", "worst", "cells")}
    definitions = tuple(str(answer.parameters[f"{PARAMETER}.definition"]).split(","))
    zones = tuple(answer.outputs[f"{PARAMETER}.zones.{at}"] for at in range(len(definitions)))
    for array in (*arrays.values(), *zones):
        check_rows(PARAMETER, array.shape, rows)
    return Coverage(answer.version, definitions, **arrays, zones=zones)


def joined_coverage(parts: Sequence[Coverage]) -> Coverage:
    """Coverage of consecutive rows, joined."""
    counts, worst, cells = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("counts", "worst", "cells")
    )
    zones = tuple(map(np.concatenate, zip(*(part.zones for part in parts), strict=True)))
    return Coverage(parts[-1].version, parts[0].definitions, counts, worst, cells, zones)


@dataclass(frozen=True, slots=True)
class RowIntervals:
    """Prediction intervals of B rows.

    method    absolute, normalized, or lac for sets of classes
    coverage  share of rows whose target is in the interval or set, if the rows are exchangeable with the calibration
              rows of the export
    bounds    [B, O, 2], lower and upper end for each explained output; None with lac
    sets      [B, C], the classes in the set of each row; None with the other methods
    reliable  False if a row is out of range, or if the latest traffic of the version drifted; None if no row is out of
              range and the server does not measure drift
    note      reason, if the intervals are unreliable or if it is unknown
    """

    method: str
    coverage: float
    bounds: NDArray[np.float64] | None
    sets: NDArray[np.bool_] | None
    reliable: bool | None
    note: str


@dataclass(frozen=True, slots=True)
class RowErrorBars:
    """Error bars of B rows.

    bars          [B, O], the largest error of each explained output; infinite for a row outside of the certified box
    assumption    under which no error exceeds its bar, in one sentence
    contradicted  whether the calibration rows of the export contradict it
    note          how they do; empty if they do not
    """

    bars: NDArray[np.float32]
    assumption: str
    contradicted: bool
    note: str


Floats = NDArray[np.float64]
GRADIENT = "gradient_x_input"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Feature attributions of B rows: `base` + the sum of `contributions` over n = `predictions`, except for
    `completeness_error`.

    base                [O], the prediction for the `reference`
    contributions       [B, n, O], of the input nodes of `layer`
    nodes_are_inputs    False for a module with KAN layers at its end: these nodes are not the model's inputs
    outputs             [O], indices of the explained outputs
    predictions         [B, O]
    completeness_error  [B, O]
    notes               sentences for the reader
    rows                [B, n], the explained rows; None if they are not rows of one input
    names               [n], names of the nodes
    output_names        [O], names of the outputs
    index               row labels of a DataFrame
    path                by explained layer, the edges with the largest shares, if requested
    intervals           prediction intervals of the rows; None if the model has none
    error_bars          error bars of the rows; None if the model has none
    out_of_range        [B], whether an input of the row is out of grid, or beyond the rows of the export; None
                        if no range is known
    """

    version: str
    method: str
    reference: str
    layer: int
    nodes_are_inputs: bool
    outputs: tuple[int, ...]
    contributions: Floats
    base: Floats
    predictions: Floats
    completeness_error: Floats
    notes: tuple[str, ...]
    rows: Floats | None
    names: tuple[str, ...]
    output_names: tuple[str, ...]
    index: Any = None
    path: tuple[LayerPath, ...] = ()
    intervals: RowIntervals | None = None
    error_bars: RowErrorBars | None = None
    out_of_range: NDArray[np.bool_] | None = None

    def to_dict(self, output: int | str | None = None) -> dict[str, Any]:
        """Arrays under the names that shap uses. Raises ValueError for an output that was not explained.

        output          only this output, by its name or its number in the model

        values          [B, n], or [B, n, O] for several outputs
        base_values     [B] or [B, O]
        data            [B, n] or None
        feature_names   [n]
        output_names    one name or a list
        """
        at = self._at(output) if output is not None or len(self.outputs) == 1 else slice(None)
        names: Any = self.output_names[at]
        base = np.tile(self.base, (len(self.predictions), 1))
        return {
            "values": self.contributions[:, :, at],
            "base_values": base[:, at],
            "data": self.rows,
            "feature_names": list(self.names),
            "output_names": names if isinstance(names, str) else list(names),
        }

    def to_shap(self, output: int | str | None = None) -> Any:
        """Attributions as a `shap.Explanation`, for shap's own plots: `shap.plots.beeswarm(result.to_shap(0))`. For
        inputs that interact these are not Shapley values: docs/explanation/contributions-vs-shap.md describes the
        difference.

        Raises ImportError if shap is not installed, the errors of `to_dict`, and ValueError for a method whose
        contributions do not add up.
        """
        if self.method == GRADIENT:
            raise ArgumentError(
                f"contributions of the method '{GRADIENT}' do not add up to the predictions, which shap requires",
                code="contributions-do-not-add-up",
                hint="explain with the default method, or use the numbers in to_dict()",
            )
        shap = encoding.needed("shap", "to_shap()", "to_dict() has the same numbers", how_to_install("shap"))
        return shap.Explanation(**self.to_dict(output))

    def to_frame(self, output: int | str | None = None) -> Any:
        """The contributions to one output as a pandas DataFrame, with a column for each input and the row labels of the
        request. Raises the errors of `to_dict`, ValueError if `output` is missing and several outputs are explained,
        and ImportError without pandas."""
        if output is None and len(self.outputs) > 1:
            raise ArgumentError(
                f"the explanation has several outputs: {', '.join(map(repr, self.output_names))}",
                code="output-missing",
                hint="pass the name or the number of one output",
            )
        return encoding.table(self.contributions[:, :, self._at(output)], self.names, index=self.index)

    def _at(self, output: int | str | None) -> int:
        """Position of an output of the model among the O outputs; None: the only one. Raises ValueError."""
        if output is None:
            return 0
        known: Sequence[int | str] = self.output_names if isinstance(output, str) else self.outputs
        if output not in known:
            raise ArgumentError(
                f"output {output!r} is not explained, expected one of {', '.join(map(repr, known))}",
                code="output-unknown",
                hint="pass an explained output, or explain this output too",
            )
        return known.index(output)


def request(
    described: Description, rows: Any, *, reference: Any, outputs: Sequence[int], method: str, path_top_k: int = 0
) -> kan.ExplainRequest:
    """The request message for an explanation. `reference`: its name, or rows."""
    message = kan.ExplainRequest(
        model_name=described.name,
        model_version=described.version,
        **packed(described, rows),
        outputs=outputs,
        method=method,
        path_top_k=path_top_k,
    )
    if isinstance(reference, str):
        message.reference = reference
    else:
        fields = packed(described, reference)
        message.reference_rows, message.reference_count = fields["rows"], fields["row_count"]
    return message


def from_pb(answer: kan.ExplainResponse, described: Description, rows: Any, count: int) -> Explanation:
    """The response for `count` rows as plain values. Raises ValueError if it does not fit them, or is of another
    version."""
    check_version(answer.model_version, described.version)
    outputs = len(answer.outputs)
    name = described.names.feature if answer.nodes_are_inputs else lambda at: f"layer {answer.layer}, node {at}"

    def array(field: str, *shape: int) -> Floats:
        return np.frombuffer(getattr(answer, field), "<f8").reshape(shape)

    return Explanation(
        version=answer.model_version,
        method=answer.method,
        reference=answer.reference,
        layer=answer.layer,
        nodes_are_inputs=answer.nodes_are_inputs,
        outputs=tuple(answer.outputs),
        contributions=array("contributions", count, answer.nodes, outputs),
        base=array("base", outputs),
        predictions=array("predictions", count, outputs),
        completeness_error=array("completeness_error", count, outputs),
        notes=tuple(answer.notes),
        rows=_data(described, rows, answer.nodes) if answer.nodes_are_inputs else None,
        names=tuple(map(name, range(answer.nodes))),
        output_names=tuple(map(described.names.output, answer.outputs)),
        index=index_of(rows),
        path=tuple(_layer_path(path, count) for path in answer.path),
        intervals=_intervals(answer.intervals, count) if answer.HasField("intervals") else None,
        error_bars=_error_bars(answer.error_bars, count) if answer.HasField("error_bars") else None,
        out_of_range=np.frombuffer(answer.out_of_range, "<u1").reshape(count).astype(bool)
        if answer.out_of_range
        else None,
    )


def _intervals(message: kan.RowIntervals, rows: int) -> RowIntervals:
    shape = (rows, message.numbers)
    bounds = None if message.sets else np.frombuffer(message.bounds, "<f8").reshape(*shape, 2)
    sets = np.frombuffer(message.sets, "<u1").reshape(shape).astype(bool) if message.sets else None
    return RowIntervals(
        message.method,
        message.coverage,
        bounds,
        sets,
        message.reliable if message.HasField("reliable") else None,
        message.note,
    )


def _error_bars(message: kan.RowErrorBars, rows: int) -> RowErrorBars:
    bars = np.frombuffer(message.bars, "<f4").reshape(rows, message.numbers)
    return RowErrorBars(bars, message.assumption, message.contradicted, message.note)


def _layer_path(path: kan.LayerPath, rows: int) -> LayerPath:
    def array(field: str, dtype: str, *shape: int) -> Any:
        return np.frombuffer(getattr(path, field), dtype).reshape(shape)

    edges = (rows, path.outputs, path.edges)
    return LayerPath(
        path.layer,
        array("sources", "<u4", *edges),
        array("destinations", "<u4", *edges),
        array("values", "<f8", *edges),
        array("residual", "<f8", rows, path.outputs),
    )


def _data(described: Description, rows: Any, nodes: int) -> Floats | None:
    """The rows of the request [B, n], if they have one input."""
    rows = of_frame(rows, described.names)
    if isinstance(rows, Mapping):
        rows = next(iter(rows.values())) if len(rows) == 1 else None
    if rows is None or math.prod(np.shape(rows)[1:]) != nodes:
        return None
    return np.array(rows, np.float64).reshape(-1, nodes)


def _joined_path(parts: Sequence[LayerPath]) -> LayerPath:
    arrays = ("sources", "destinations", "values", "residual")
    return LayerPath(parts[0].layer, *(np.concatenate([getattr(part, name) for part in parts]) for name in arrays))


def _joined_intervals(parts: Sequence[RowIntervals | None]) -> RowIntervals | None:
    """Intervals of consecutive rows as one: unreliable if those of a part are."""
    some = [part for part in parts if part is not None]
    if not some:
        return None
    if len(some) != len(parts):
        raise ValueError("some of the rows have no intervals")
    worst = min(some, key=lambda part: {False: 0, None: 1, True: 2}[part.reliable])
    bounds, sets = (
        [array for part in some if (array := getattr(part, name)) is not None] for name in ("bounds", "sets")
    )
    return dataclasses.replace(
        worst,
        bounds=np.concatenate(bounds) if bounds else None,
        sets=np.concatenate(sets) if sets else None,
    )


def _joined_error_bars(parts: Sequence[RowErrorBars | None]) -> RowErrorBars | None:
    """Error bars of consecutive rows as one: contradicted if those of a part are."""
    some = [part for part in parts if part is not None]
    if not some:
        return None
    if len(some) != len(parts):
        raise ValueError("some of the rows have no error bars")
    worst = max(some, key=lambda part: part.contradicted)
    return dataclasses.replace(worst, bars=np.concatenate([part.bars for part in some]))


def _joined_rows(parts: Sequence[Explanation]) -> Floats | None:
    rows = [part.rows for part in parts if part.rows is not None]
    return np.concatenate(rows) if rows else None


def _joined_marks(parts: Sequence[NDArray[np.bool_] | None]) -> NDArray[np.bool_] | None:
    """Marks of consecutive rows as one; None if those of a part are unknown."""
    some = [part for part in parts if part is not None]
    return np.concatenate(some) if len(some) == len(parts) else None


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of consecutive rows as one."""
    return dataclasses.replace(
        parts[0],
        contributions=np.concatenate([part.contributions for part in parts]),
        predictions=np.concatenate([part.predictions for part in parts]),
        completeness_error=np.concatenate([part.completeness_error for part in parts]),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        path=tuple(map(_joined_path, zip(*(part.path for part in parts), strict=True))),
        intervals=_joined_intervals([part.intervals for part in parts]),
        error_bars=_joined_error_bars([part.error_bars for part in parts]),
        out_of_range=_joined_marks([part.out_of_range for part in parts]),
        rows=_joined_rows(parts),
    )
