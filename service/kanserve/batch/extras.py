"""Further columns of a result: the largest contributions, coverage, prediction intervals, error bars, and the flag of
rows out of range."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.error_bars import Bars
from kanexport.shared.sections import LAC
from kanserve.analysis import intervals
from kanserve.analysis.coverage import Zone
from kanserve.batch.columns import arrow
from kanserve.batch.folder import Version, pieces, sizes
from kanserve.insight.coverage import RowRanges
from kanserve.insight.statistics import Nodes
from kanserve.services import error_bars
from kanserve.services.intervals import Reliability, section
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


class Extra(Protocol):
    """Further columns of a result. Several threads may call it at once."""

    @property
    def fields(self) -> Sequence[Any]:
        """The pyarrow fields of its columns."""

    def arrays(self, scored: Scored) -> list[Any]:
        """A pyarrow array for each field. Raises FailedPrecondition."""


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

    @property
    def fields(self) -> list[Any]:
        """See `Extra.fields`."""
        pa = arrow()
        named = [pa.field("explained_output", pa.string())] if self._outputs > 1 else []
        for at in range(1, self._count + 1):
            named += [pa.field(f"top{at}_input", pa.string()), pa.field(f"top{at}_contribution", pa.float32())]
        return named

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Extra.arrays`."""
        pa, names = arrow(), self._names
        outputs = scored.outputs[0]
        largest = np.argmax(outputs, axis=1)
        inputs, values = self._largest(scored.feeds, largest)
        features = np.array([names.feature(at) for at in range(int(inputs.max(initial=0)) + 1)], object)
        columns = []
        if self._outputs > 1:
            labels = np.array([names.output(at) for at in range(self._outputs)], object)
            columns.append(pa.array(labels[largest], pa.string()))
        for at in range(self._count):
            columns.append(pa.array(features[inputs[:, at]], pa.string()))
            columns.append(pa.array(np.ascontiguousarray(values[:, at])))
        return columns

    def _largest(self, feeds: Mapping[str, Array], explained: NDArray[np.intp]) -> tuple[Array, Array]:
        """Inputs [B, K] and their contributions [B, K] to the `explained` output of each row."""
        shape = (len(explained), self._count)
        inputs, values = np.zeros(shape, np.intp), np.zeros(shape, np.float32)
        with self._turn:
            for output in np.unique(explained).tolist():
                rows = np.flatnonzero(explained == output)
                picked = {name: np.ascontiguousarray(array[rows]) for name, array in feeds.items()}
                pieces = [piece.contributions[:, :, 0] for piece in self._version.explain(picked, output)]
                contributions = np.concatenate(pieces)
                order = np.argsort(-np.abs(contributions), axis=1, kind="stable")[:, : self._count]
                inputs[rows], values[rows] = order, np.take_along_axis(contributions, order, axis=1)
        return inputs, values


class InputCoverage:
    """For each row, how many inputs of the first layer are out of range, and the farthest one."""

    def __init__(self, version: Version) -> None:
        """Raises FailedPrecondition for plain ONNX."""
        self._version, self._names = version, version.manifest.names

    @property
    def fields(self) -> list[Any]:
        """See `Extra.fields`."""
        pa = arrow()
        kinds = {
            "inputs_out_of_range": pa.int32(),
            "farthest_input": pa.string(),
            "grid_intervals_outside": pa.float32(),
        }
        return [pa.field(name, kind) for name, kind in kinds.items()]

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Extra.arrays`."""
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
        self._names = version.names.columns(sizes(version))[version.info.outputs[0].name]
        self._drift = DriftSample(version) if version.manifest.baseline.rows else None
        self._version, self._ranges = version, RowRanges(version.manifest)
        self._beyond = False

    @property
    def fields(self) -> list[Any]:
        """See `Extra.fields`."""
        pa, mark = arrow(), arrow().field("interval_out_of_range", arrow().bool_())
        if self._section.method == LAC:
            return [*(pa.field(f"{name}_in_set", pa.bool_()) for name in self._names), mark]
        ends = (f"{name}_{end}" for name in self._names for end in ("lower", "upper"))
        return [*(pa.field(name, pa.float64()) for name in ends), mark]

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Extra.arrays`."""
        pa = arrow()
        if self._drift is not None:
            self._drift.add(scored.feeds)
        values = intervals.of(self._section, scored.outputs[0])
        flat = np.ascontiguousarray(values.reshape(len(values), -1).T)
        kinds = [field.type for field in self.fields[:-1]]
        columns = [pa.array(column.astype(kind.to_pandas_dtype())) for column, kind in zip(flat, kinds, strict=True)]
        return [*columns, pa.array(self._outside(scored.feeds), pa.bool_())]

    def _outside(self, feeds: Mapping[str, Array]) -> Array:
        """Whether each row is out of range; null if no range is known."""
        missing, nodes = self._ranges.missing, dict[str, Array]()
        if missing:
            parts = (self._version.trace(missing, part) for _, part in pieces(feeds, self._version.most_rows))
            nodes = dict(zip(missing, map(np.concatenate, zip(*parts, strict=True)), strict=True))
        outside = self._ranges.outside({**feeds, **nodes})
        if outside is None:
            return np.full(len(next(iter(feeds.values()))), None)
        self._beyond = self._beyond or bool(outside.any())
        return outside

    def reliability(self) -> Reliability:
        """The reliability of the intervals so far, by rows out of range and by the drift of a sample of the rows."""
        return self._by_drift().of_rows(np.array([self._beyond]))

    def _by_drift(self) -> Reliability:
        if self._drift is None:
            return Reliability(None, "drift is not measured: the export has no baseline rows")
        ratio = self._drift.ratio()
        if ratio is None or ratio <= 1:
            return Reliability(None if ratio is None else True)
        return Reliability(
            False,
            f"the rows drifted from the baseline: the largest PSI is {ratio:.3g} times its no-drift threshold, so the "
            "coverage of the intervals may be lower",
        )


class ErrorBarColumns:
    """Error bar of each number of the output; infinite for a row outside of the certified box."""

    def __init__(self, version: Version) -> None:
        """Raises FailedPrecondition for a model without error bars."""
        self.note = error_bars.note(error_bars.section(version.info))
        self._bars = Bars(version.manifest.error_bars, version.manifest.certificate)
        self._names = version.names.columns(sizes(version))[version.info.outputs[0].name]
        self._input = version.info.inputs[0].name

    @property
    def fields(self) -> list[Any]:
        """See `Extra.fields`."""
        pa = arrow()
        return [pa.field(f"{name}_error_bar", pa.float32()) for name in self._names]

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Extra.arrays`."""
        values = self._bars.of(scored.feeds[self._input])
        return [arrow().array(column) for column in np.ascontiguousarray(values.T)]


class Flag:
    """Flag of rows with an input out of range, for a model whose export requires it."""

    @property
    def fields(self) -> list[Any]:
        """See `Extra.fields`."""
        pa = arrow()
        return [pa.field("out_of_range", pa.bool_())]

    def arrays(self, scored: Scored) -> list[Any]:
        """See `Extra.arrays`."""
        return [arrow().array(scored.outside)]
