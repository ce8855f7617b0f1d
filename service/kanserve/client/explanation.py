"""Grid coverage and feature attributions as plain arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.cli.suggest import how_to_install
from kanserve.analysis.coverage import Zone
from kanserve.client import encoding
from kanserve.client.encoding import from_fields, index_of, of_frame
from kanserve.client.errors import ArgumentError
from kanserve.client.results import InferenceResult, check_rows, check_version
from kanserve.pb import kan_pb2 as kan
from kanserve.types import Description, LayerPath

T = TypeVar("T")
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


def coverage_of(result: InferenceResult, rows: int) -> Coverage:
    """Grid coverage that the response for some rows has. Raises KeyError without one, ValueError for another number of
    rows."""
    outputs = result.outputs
    arrays: dict[str, Any] = {name: outputs[f"{PARAMETER}.{name}"] for name in ("counts", "worst", "cells")}
    definitions = tuple(str(result.parameters[f"{PARAMETER}.definition"]).split(","))
    zones = tuple(outputs[f"{PARAMETER}.zones.{at}"] for at in range(len(definitions)))
    for array in (*arrays.values(), *zones):
        check_rows(PARAMETER, array.shape, rows)
    return Coverage(result.version, definitions, **arrays, zones=zones)


def joined_coverage(parts: Sequence[Coverage]) -> Coverage:
    """Coverage of consecutive rows, joined."""
    arrays = _concatenated(parts, "counts", "worst", "cells")
    zones = tuple(map(np.concatenate, zip(*(part.zones for part in parts), strict=True)))
    return Coverage(parts[-1].version, parts[0].definitions, **arrays, zones=zones)


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
RELIABILITY = {False: 0, None: 1, True: 2}  # from the worst
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
        return encoding.frame(self.contributions[:, :, self._at(output)], list(self.names), index=self.index)

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


def explanation_of(described: Description, rows: Any, count: int, message: kan.ExplainResponse) -> Explanation:
    """The response for `count` rows as plain values. Raises ValueError if it does not fit them, or is of another
    version."""
    check_version(message.model_version, described.version)
    nodes, outputs = message.nodes, len(message.outputs)
    name = described.names.feature if message.nodes_are_inputs else lambda at: f"layer {message.layer}, node {at}"
    outside = np.frombuffer(message.out_of_range, "<u1").reshape(count).astype(bool) if message.out_of_range else None
    shape = (count, message.intervals.numbers)
    data = of_frame(rows, described.names) if message.nodes_are_inputs else None
    if isinstance(data, Mapping):
        data = next(iter(data.values())) if len(data) == 1 else None
    if data is not None:
        data = np.array(data, np.float64).reshape(-1, nodes) if math.prod(np.shape(data)[1:]) == nodes else None
    return from_fields(
        Explanation,
        message,
        version=message.model_version,
        contributions=_array(message.contributions, "<f8", count, nodes, outputs),
        base=_array(message.base, "<f8", outputs),
        predictions=_array(message.predictions, "<f8", count, outputs),
        completeness_error=_array(message.completeness_error, "<f8", count, outputs),
        rows=data,
        names=tuple(map(name, range(nodes))),
        output_names=tuple(map(described.names.output, message.outputs)),
        index=index_of(rows),
        path=tuple(_layer_path(path, count) for path in message.path),
        intervals=from_fields(
            RowIntervals,
            message.intervals,
            bounds=None if message.intervals.sets else _array(message.intervals.bounds, "<f8", *shape, 2),
            sets=_array(message.intervals.sets, "<u1", *shape).astype(bool) if message.intervals.sets else None,
            reliable=message.intervals.reliable if message.intervals.HasField("reliable") else None,
        )
        if message.HasField("intervals")
        else None,
        error_bars=from_fields(
            RowErrorBars,
            message.error_bars,
            bars=_array(message.error_bars.bars, "<f4", count, message.error_bars.numbers),
        )
        if message.HasField("error_bars")
        else None,
        out_of_range=outside,
    )


def _array(packed: bytes, dtype: str, *shape: int) -> Any:
    return np.frombuffer(packed, dtype).reshape(shape)


def _layer_path(message: kan.LayerPath, rows: int) -> LayerPath:
    edges = (rows, message.outputs, message.edges)
    return LayerPath(
        message.layer,
        _array(message.sources, "<u4", *edges),
        _array(message.destinations, "<u4", *edges),
        _array(message.values, "<f8", *edges),
        _array(message.residual, "<f8", rows, message.outputs),
    )


def joined(parts: Sequence[Explanation]) -> Explanation:
    """Explanations of consecutive rows as one. Intervals are unreliable, and error bars contradicted, if those of a
    part are. Raises ValueError if only some of the parts have them."""
    marks, rows = ([getattr(part, name) for part in parts] for name in ("out_of_range", "rows"))
    return dataclasses.replace(
        parts[0],
        **_concatenated(parts, "contributions", "predictions", "completeness_error"),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        path=tuple(
            LayerPath(layers[0].layer, **_concatenated(layers, "sources", "destinations", "values", "residual"))
            for layers in zip(*(part.path for part in parts), strict=True)
        ),
        intervals=_worst("intervals", [part.intervals for part in parts], lambda part: RELIABILITY[part.reliable]),
        error_bars=_worst("error bars", [part.error_bars for part in parts], lambda part: not part.contradicted),
        out_of_range=None if any(part is None for part in marks) else np.concatenate(marks),
        rows=None
        if all(part is None for part in rows)
        else np.concatenate([part for part in rows if part is not None]),
    )


def _worst(what: str, parts: Sequence[T | None], order: Callable[[T], int]) -> T | None:
    """The part that comes first in an order, with the arrays of all parts. Raises ValueError if only some exist."""
    some: list[Any] = [part for part in parts if part is not None]
    if not some:
        return None
    if len(some) != len(parts):
        raise ValueError(f"some of the rows have no {what}")
    worst = min(some, key=order)
    arrays = [name for name in ("bounds", "sets", "bars") if getattr(worst, name, None) is not None]
    return cast(T, dataclasses.replace(worst, **_concatenated(some, *arrays)))


def _concatenated(parts: Sequence[Any], *names: str) -> dict[str, Any]:
    """Arrays of consecutive rows as one, by their names."""
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
