"""Further columns of a result: the largest contributions, coverage, prediction intervals, error bars, and the flag of
rows out of range."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.error_bars import Bars
from kanexport.shared.sections import LAC
from kanserve.analysis import intervals
from kanserve.analysis.coverage import Zone
from kanserve.insight.coverage import RowRanges
from kanserve.insight.statistics import Nodes
from kanserve.scoring.folder import Version, pieces, sizes
from kanserve.services import error_bars
from kanserve.services.intervals import Reliability, section
from kanserve.tables.record_batches import arrow
from kanserve.types import Array

SAMPLED = 64  # rows of a block whose drift is measured


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Rows with their outputs.

    feeds    rows [B, ...] by input
    outputs  each output, flat [B, numbers]
    outside  rows with an input out of range [B]
    """

    feeds: Mapping[str, Array]
    outputs: Sequence[Array]
    outside: NDArray[np.bool_]


class Contributions:
    """For each row, the inputs with the largest contributions to the output, or to the largest of several outputs. The
    contributions are those of `kanserve explain`."""

    def __init__(self, version: Version, top_k: int) -> None:
        """`top_k`: the number of inputs. Raises FailedPrecondition for plain ONNX."""
        self._names = version.manifest.names
        width = sum(math.prod(tensor.shape[1:]) for tensor in version.info.inputs)
        self._version, self._count = version, min(top_k, width)
        self._outputs = math.prod(version.info.outputs[0].shape[1:])
        self._turn = threading.Lock()
        pa = arrow()
        self.fields = [pa.field("explained_output", pa.string())] if self._outputs > 1 else []
        for at in range(1, self._count + 1):
            self.fields += [pa.field(f"top{at}_input", pa.string()), pa.field(f"top{at}_contribution", pa.float32())]

    def arrays(self, scored: Scored) -> list[Any]:
        """A pyarrow array for each field. Raises FailedPrecondition."""
        pa, names = arrow(), self._names
        outputs = scored.outputs[0]
        largest = np.argmax(outputs, axis=1)
        shape = (len(largest), self._count)
        inputs, values = np.zeros(shape, np.intp), np.zeros(shape, np.float32)
        with self._turn:
            for output in np.unique(largest).tolist():
                rows = np.flatnonzero(largest == output)
                picked = {name: np.ascontiguousarray(array[rows]) for name, array in scored.feeds.items()}
                pieces = [piece.contributions[:, :, 0] for piece in self._version.explain(picked, output)]
                contributions = np.concatenate(pieces)
                order = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, : self._count]
                inputs[rows], values[rows] = order, np.take_along_axis(contributions, order, axis=1)
        features = np.array([names.feature(at) for at in range(int(inputs.max(initial=0)) + 1)], object)
        columns = []
        if self._outputs > 1:
            labels = np.array([names.output(at) for at in range(self._outputs)], object)
            columns.append(pa.array(labels[largest], pa.string()))
        for at in range(self._count):
            columns.append(pa.array(features[inputs[:, at]], pa.string()))
            columns.append(pa.array(np.ascontiguousarray(values[:, at])))
        return columns


class InputCoverage:
    """For each row, how many inputs of the first layer are out of range, and the farthest one."""

    def __init__(self, version: Version) -> None:
        """Raises FailedPrecondition for plain ONNX."""
        pa = arrow()
        self._version, self._names = version, version.manifest.names
        self.fields = [
            pa.field("inputs_out_of_range", pa.int32()),
            pa.field("farthest_input", pa.string()),
            pa.field("grid_intervals_outside", pa.float32()),
        ]

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Contributions.arrays`."""
        pa = arrow()
        first = self._version.coverage(scored.feeds)[0]
        zones = first.zones.reshape(len(first.zones), -1)
        names = [self._names.feature(at) for at in range(zones.shape[1])]
        farthest = np.array([*names, None], object)[first.worst.astype(np.intp)]  # NOWHERE, -1, selects None
        return [
            pa.array((zones == Zone.OUTSIDE).sum(axis=1).astype(np.int32)),
            pa.array(farthest, pa.string()),
            pa.array(first.cells.astype(np.float32)),
        ]


class DriftSample:
    """Drift of a sample of the rows from the baseline of the export."""

    def __init__(self, version: Version) -> None:
        """Raises FailedPrecondition for plain ONNX."""
        self._version, self._nodes = version, Nodes(version.manifest, version.trace)
        self._tally, self._turn = self._nodes.empty(), threading.Lock()

    def add(self, feeds: Mapping[str, Array]) -> None:
        """Count some of these rows [B, ...] by input, at equal distances."""
        rows = len(next(iter(feeds.values())))
        some = {name: np.ascontiguousarray(array[:: -(-rows // SAMPLED)]) for name, array in feeds.items()}
        tally = self._nodes.count(self._version.trace, some)
        with self._turn:
            self._tally = self._tally.plus(tally)

    def ratio(self) -> float | None:
        """The largest PSI of a node, divided by its no-drift threshold; None before the first row."""
        with self._turn:
            tally = self._tally
        if not tally.rows:
            return None
        return max((part.drift.ratio for part in self._nodes.compared(tally) if part.drift is not None), default=None)


class PredictionIntervals:
    """Prediction interval of each number of the output, or for a classifier whether each class is in the set."""

    def __init__(self, version: Version) -> None:
        """Raises FailedPrecondition for a model without prediction intervals."""
        self._section = section(version.info)
        names = version.names.columns(sizes(version))[version.info.outputs[0].name]
        self._drift = DriftSample(version) if version.manifest.baseline.rows else None
        self._version, self._ranges = version, RowRanges(version.manifest)
        self._beyond = False
        pa = arrow()
        if self._section.method == LAC:
            self.fields = [pa.field(f"{name}_in_set", pa.bool_()) for name in names]
        else:
            self.fields = [pa.field(f"{name}_{end}", pa.float64()) for name in names for end in ("lower", "upper")]
        self.fields.append(pa.field("interval_out_of_range", pa.bool_()))

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Contributions.arrays`."""
        pa = arrow()
        if self._drift is not None:
            self._drift.add(scored.feeds)
        values = intervals.of(self._section, scored.outputs[0])
        flat = np.ascontiguousarray(values.reshape(len(values), -1).T)
        kinds = [field.type for field in self.fields[:-1]]
        columns = [pa.array(column.astype(kind.to_pandas_dtype())) for column, kind in zip(flat, kinds, strict=True)]
        missing, nodes = self._ranges.missing, dict[str, Array]()
        if missing:
            parts = (self._version.trace(missing, part) for _, part in pieces(scored.feeds, self._version.most_rows))
            nodes = dict(zip(missing, map(np.concatenate, zip(*parts, strict=True)), strict=True))
        outside = self._ranges.outside({**scored.feeds, **nodes})
        if outside is None:  # no range is known
            return [*columns, pa.array([None] * len(values), pa.bool_())]
        self._beyond = self._beyond or bool(outside.any())
        return [*columns, pa.array(outside, pa.bool_())]

    def reliability(self) -> Reliability:
        """The reliability of the intervals so far, by rows out of range and by the drift of a sample of the rows."""
        ratio = None if self._drift is None else self._drift.ratio()
        by_drift = Reliability(None if ratio is None else True)
        if self._drift is None:
            by_drift = Reliability(None, "drift is not measured: the export has no baseline rows")
        elif ratio is not None and ratio > 1:
            by_drift = Reliability(
                False,
                f"the rows drifted from the baseline: the largest PSI is {ratio:.3g} times its no-drift threshold, so "
                "the coverage of the intervals may be lower",
            )
        return by_drift.of_rows(np.array([self._beyond]))


class ErrorBarColumns:
    """Error bar of each number of the output; infinite for a row outside of the certified box."""

    def __init__(self, version: Version) -> None:
        """Raises FailedPrecondition for a model without error bars."""
        self.note = error_bars.note(error_bars.section(version.info))
        self._bars = Bars(version.manifest.error_bars, version.manifest.certificate)
        names = version.names.columns(sizes(version))[version.info.outputs[0].name]
        self._input = version.info.inputs[0].name
        self.fields = [arrow().field(f"{name}_error_bar", arrow().float32()) for name in names]

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Contributions.arrays`."""
        values = self._bars.of(scored.feeds[self._input])
        return [arrow().array(column) for column in np.ascontiguousarray(values.T)]


class Flag:
    """Flag of rows with an input out of range, for a model whose export requires it."""

    def __init__(self) -> None:
        self.fields = [arrow().field("out_of_range", arrow().bool_())]

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Contributions.arrays`."""
        return [arrow().array(scored.outside)]


# Further columns of a result: their pyarrow `fields`, and their `arrays`. Several threads may call it at once.
Extra = Contributions | InputCoverage | PredictionIntervals | ErrorBarColumns | Flag
