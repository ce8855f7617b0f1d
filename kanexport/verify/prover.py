"""Comparison of graphs with their float64 reference, region by region: the largest errors of outputs and edges."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kanexport.errors import REPAIR, InvalidKan, VerificationFailed, internal_check_failed
from kanexport.ir import clamping, scaling
from kanexport.ir.model import Layer
from kanexport.ir.steps import Clip
from kanexport.lowering.lower import INPUT, Lowered, Many
from kanexport.shared import custom_ops
from kanexport.verify import float64_reference, graph_runner, test_points
from kanexport.verify.float64_reference import Jitter, Trace
from kanexport.verify.graph_runner import FLOAT, Port, Ports
from kanexport.verify.tolerances import OVERFLOW, Allowance, LargestError, Tolerance, magnitude, relative_change

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]  # which rows
Draws = Sequence[Callable[[], Trace]]  # the same run with its rounding shaken, once for each draw, when asked
DrawnRows = Sequence[Callable[[], Array]]  # rows of a layer likewise
Shapes = dict[str, tuple[tuple[int, ...] | str, tuple[int, ...]]]  # by name: a shape, or a text, and the expected shape
EdgeValues = Callable[[slice], Array]  # edge values of the graph, of some vectors

WHOLE = 1e-12  # relative: the tolerance of whole numbers, which are right or wrong


@dataclass
class ZoneErrors:
    """Errors of one region.

    rows            the number of its rows
    left_out        rows that were not compared, since they meet values beyond OVERFLOW
    edges_left_out  vectors of nodes that were not compared, since their edges do
    """

    rows: int = 0
    left_out: int = 0
    edges_left_out: int = 0
    outputs: LargestError = field(default_factory=LargestError)
    edges: LargestError = field(default_factory=LargestError)


def _column(column: int, at: tuple[int, ...]) -> str:
    """The place of an error in one column of the outputs."""
    return str(column)


class Subject(Protocol):
    """Reference of a graph: its layers, and its float64 evaluation."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers with an edge graph, in the order of the lowered model."""

    @property
    def ports(self) -> Ports:
        """The inputs and outputs of the graph; rows x and y contain them as one array."""

    def evaluate(self, x: Array, jitter: Jitter | None = None) -> Trace:
        """Rows [B, ...] to outputs [B, ...] and the input vectors of the layers [B, *positions, width]."""


FEWEST = 3  # vectors that the prover compares at least, of a layer whose edges take long
EDGES_AT_ONCE = 2_000_000  # edges computed at a time, if each takes much time and memory


class Prover:
    """Comparison of one lowered model with its subject. It keeps the largest errors by region.

    Raises InvalidKan if the runtime cannot run the graphs, or if nothing can be proved, and
    VerificationFailed where a graph does not run or gives another shape. How large an error
    may be is not judged here. `library`: that has operators of the serving graph's.
    """

    def __init__(self, subject: Subject, lowered: Lowered, dtype: str, tolerance: float, *, library: str = "") -> None:
        self.subject, self.lowered, self.dtype = subject, lowered, np.dtype(dtype)
        self.tolerance = Tolerance.for_graph(tolerance, dtype)
        level = lowered.optimization
        self.session = graph_runner.session(lowered.model, lowered.weights, library, level)
        self.edge_sessions = [
            graph_runner.session(model, lowered.weights, optimization=level) for model in lowered.edges
        ]
        self.zones: dict[str, ZoneErrors] = {}
        self.scales: dict[int | str, float] = {}  # magnitudes inside the grid: by layer, and by output

    def run(self, x: Array) -> dict[str, Array]:
        """All outputs of the serving graph, and its inputs, as float64."""
        ports = self.subject.ports
        return {**ports.float64_inputs(x), **graph_runner.run(self.session, ports.feeds(x, self.dtype))}

    def edge_values(self, index: int, nodes: Array) -> Array:
        """The node vectors of a layer [B, n] to the output of its edge graph, [B, I, O]."""
        name, layer = self.lowered.node_tensors[index], self.subject.layers[index]
        session, count = self.edge_sessions[index], test_points.edge_count(layer)
        each = max(1, len(nodes) if count == layer.mask.size else EDGES_AT_ONCE // count)
        parts = (nodes[at : at + each].astype(self.dtype) for at in range(0, max(1, len(nodes)), each))
        return np.concatenate([next(iter(graph_runner.run(session, {name: part}).values())) for part in parts])

    def zone(self, name: str, x: Array) -> None:
        """Outputs, and the edges of every layer from the nodes of the graph, for rows x [B, ...]."""
        errors, trace, outputs, keep, shaken = self.outputs(name, x)
        for index in range(len(self.subject.layers)):
            nodes = outputs[self.lowered.node_tensors[index]]
            self.layer(errors, index, nodes, trace.inputs[index], keep, shaken)

    def batch(self, x: Array) -> None:
        """Compare only the outputs, for rows x [B, ...], as a region named after the number of rows."""
        self.outputs(f"batch of {len(x)}", x)

    def outputs(self, name: str, x: Array) -> tuple[ZoneErrors, Trace, dict[str, Array], Rows, Draws]:
        """Compare the outputs of some rows, and return the references of the edges."""
        errors = self.zones.setdefault(name, ZoneErrors())
        errors.rows += len(x)
        trace = self.subject.evaluate(x)
        shaken = [
            functools.cache(functools.partial(self.subject.evaluate, x, jitter)) for jitter in self.tolerance.jitters
        ]
        outputs = self.run(x)
        keep = trace.peak < OVERFLOW
        errors.left_out += int(np.count_nonzero(~keep))
        if name == "inside" and not keep.any():
            raise InvalidKan(
                f"no row in the grid can be compared: all of them give values beyond {OVERFLOW:g}",
                code="values-too-large",
                hint=REPAIR,
            )
        for port in self.subject.ports.outputs:
            self._output(errors, port, outputs[port.name], trace.y, keep, shaken)
        return errors, trace, outputs, keep, shaken

    def _output(self, errors: ZoneErrors, port: Port, computed: Array, y: Array, keep: Rows, shaken: Draws) -> None:
        """One output of the graph, compared with its part of y."""
        ports, several = self.subject.ports, len(self.subject.ports.outputs) > 1
        require_shapes({port.name: (computed.shape, ports.float64_outputs(y)[port.name].shape)}, len(y))
        restore = scaling.restore(self.subject.layers)

        def kept(rows: Array) -> Array:
            values = table(rows[keep])
            return values if restore is None else restore.in_network_units(values)

        def exact(rows: Array) -> Array:
            return kept(ports.float64_outputs(rows)[port.name])

        expected = exact(y)
        tolerance = self.tolerance.outputs if port.kind == FLOAT else WHOLE
        allowance = self.allow(port.name, tolerance, expected, lambda: (exact(draw().y) for draw in shaken))
        result = kept(computed)
        if restore is None:
            errors.outputs.add(
                result, expected, allowance, lambda at: f"{port.name}[{at[1]}]" if several else str(at[1])
            )
            return
        rounding = restore.rounding(table(y[keep]), self.dtype)
        for at, room in enumerate(rounding):
            column = slice(at, at + 1)
            scale = max(magnitude(expected[:, column]), allowance.scale) or 1.0
            relaxed = dataclasses.replace(allowance, tolerance=tolerance + float(room) / scale)
            errors.outputs.add(result[:, column], expected[:, column], relaxed, functools.partial(_column, at))

    def nodes(
        self, errors: ZoneErrors, name: str, index: int, computed: Array, trace: Trace, keep: Rows, shaken: Draws
    ) -> None:
        """The vectors that feed a layer, from the output of the graph with this name."""

        def exact(run: Trace) -> Array:
            return table(run.inputs[index][keep])

        allowance = self.allow(name, self.tolerance.edges, exact(trace), lambda: (exact(draw()) for draw in shaken))
        errors.outputs.add(table(computed[keep]), exact(trace), allowance, lambda at: f"{name}[{at[1]}]")

    def layer(
        self,
        errors: ZoneErrors,
        index: int,
        nodes: Array,
        exact: Array,
        keep: Rows,
        shaken: Draws,
        edges: Array | None = None,
    ) -> None:
        """The edges of one layer, from its nodes in the graph; or `edges` [B, *positions, I, O], if the graph
        returns them."""
        _require_nodes(index, nodes, exact)
        rows, layer = len(nodes), self.subject.layers[index]
        nodes, exact = _vectors(nodes[keep]), _vectors(exact[keep])
        chosen = _chosen(len(exact), rows, layer)

        def vectors(draw: Callable[[], Trace]) -> Array:
            return _vectors(draw().inputs[index][keep])[chosen]

        computed: EdgeValues = functools.partial(self._edge_part, index, nodes[chosen])
        if edges is not None:
            computed = edges[keep].reshape(-1, *edges.shape[-2:])[chosen].__getitem__
        self._edges(errors, index, computed, exact[chosen], [functools.partial(vectors, draw) for draw in shaken])

    def layer_zone(self, name: str, index: int, x: Array) -> None:
        """The edges of one layer from rows x [B, width] for this layer."""
        shaken = functools.partial(float64_reference.shaken_nodes, self.subject.layers[index], x)
        moved = [functools.cache(functools.partial(shaken, jitter)) for jitter in self.tolerance.jitters]
        # `rows` counts rows of the model; a zone without any counts the layer's.
        errors = self.zones.setdefault(name, ZoneErrors(rows=len(x)))
        self._edges(errors, index, functools.partial(self._edge_part, index, x), x, moved)

    def _edge_part(self, index: int, nodes: Array, part: slice) -> Array:
        return self.edge_values(index, nodes[part])

    def _edges(self, errors: ZoneErrors, index: int, computed: EdgeValues, exact: Array, moved: DrawnRows) -> None:
        """Edges from vectors [N, width]: `computed` by the graph, and the reference from `exact`; `moved` are the
        exact vectors after rounding, once per draw."""
        layer = self.subject.layers[index]
        for part, values, peak in float64_reference.edges(layer, exact):
            fits = peak < OVERFLOW
            errors.edges_left_out += int(np.count_nonzero(~fits))
            shaken = functools.partial(_shaken_edges, layer, moved, self.tolerance.jitters, part, fits)
            allowance = self.allow(index, self.tolerance.edges, values[fits], shaken)
            errors.edges.add(computed(part)[fits], values[fits], allowance, lambda at: f"({index},{at[1]},{at[2]})")

    def allow(
        self, index: int | str, tolerance: float, exact: Array, shaken: Callable[[], Iterable[Array]]
    ) -> Allowance:
        """Record the first magnitude of its kind: the region in the grid is the first."""
        scale = self.scales.setdefault(index, magnitude(exact))
        return Allowance(
            tolerance, scale, lambda: (relative_change(exact, other) for other in shaken()), self.tolerance.excuse
        )

    def batches(self, x: Array, *, empty: bool) -> None:
        """One row by itself gives the same as in a batch, and an empty batch, if `empty`, gives no rows."""
        for count in (0, 1) if empty else (1,):
            require_shapes(self.shapes(self.run(x[:count]), x[:1], count), count)
        self.zone("single", x[:1])

    def shapes(self, outputs: dict[str, Array], row: Array, count: int) -> Shapes:
        """The shapes of the outputs and edges for `count` rows. `row` [1, ...] shows the number of vectors of each
        layer."""
        shapes = self._output_shapes(outputs, count)
        for index, (layer, exact) in enumerate(
            zip(self.subject.layers, self.subject.evaluate(row).inputs, strict=True)
        ):
            nodes = _vectors(outputs[self.lowered.node_tensors[index]])
            chosen = _chosen(len(nodes), count, layer)
            vectors, *rest = self.edge_values(index, nodes[chosen]).shape
            expected = (count * len(_vectors(exact)), layer.sources, layer.destinations)
            shapes[f"edges of layer {index}"] = ((vectors + len(nodes) - len(chosen), *rest), expected)
        return shapes

    def _output_shapes(self, outputs: dict[str, Array], count: int) -> Shapes:
        return {port.name: (outputs[port.name].shape, (count, *port.shape)) for port in self.subject.ports.outputs}


def require_shapes(shapes: Shapes, count: int) -> None:
    """Raises VerificationFailed if a shape, of `count` rows, differs from the expected one."""
    for name, (actual, expected) in shapes.items():
        if actual != expected:
            raise internal_check_failed(f"{name} has shape {actual} for {count} rows, expected {expected}")


def _require_nodes(index: int, nodes: Array, exact: Array) -> None:
    """Raises VerificationFailed if the nodes that feed a layer have another shape than in the float64 evaluation."""
    if nodes.shape != exact.shape:
        raise internal_check_failed(f"the graph feeds layer {index} with shape {nodes.shape}, expected {exact.shape}")


def _chosen(vectors: int, count: int, layer: Layer) -> npt.NDArray[np.intp]:
    """The vectors of a layer to compare, if `count` rows have many positions each."""
    each = test_points.edge_count(layer)
    least = count if each == layer.mask.size else FEWEST
    most = max(least, test_points.EDGE_BUDGET // each)
    if vectors <= most:
        return np.arange(vectors)
    return np.sort(np.random.default_rng(0).permutation(vectors)[:most])


def table(values: Array) -> Array:
    """[B, ...] -> [B, N]"""
    return values.reshape(len(values), -1 if len(values) else int(np.prod(values.shape[1:])))


def _vectors(nodes: Array) -> Array:
    """[B, *positions, n] -> [B * positions, n]"""
    return nodes.reshape(-1, nodes.shape[-1])


def _shaken_edges(
    layer: Layer,
    moved: DrawnRows,
    jitters: tuple[Jitter, ...],
    part: slice,
    fits: npt.NDArray[np.bool_],
) -> Iterable[Array]:
    """Edge values of some rows, for each draw of the rounding."""
    for draw, jitter in zip(moved, jitters, strict=True):
        yield np.concatenate([values for _, values, _ in float64_reference.edges(layer, draw()[part], jitter)])[fits]


class ManyProver(Prover):
    """Prover of another layout of the serving graph."""

    def __init__(self, subject: Subject, lowered: Lowered, many: Many, dtype: str, tolerance: float) -> None:
        super().__init__(subject, dataclasses.replace(lowered, model=many.graph, edges=()), dtype, tolerance)

    def zone(self, name: str, x: Array) -> None:
        """Outputs, and the vectors that feed the layers, for rows x [B, ...]."""
        errors, trace, outputs, keep, shaken = self.outputs(name, x)
        for index, tensor in enumerate(self.lowered.node_tensors):
            _require_nodes(index, outputs[tensor], trace.inputs[index])
            self.nodes(errors, tensor, index, outputs[tensor], trace, keep, shaken)

    def shapes(self, outputs: dict[str, Array], row: Array, count: int) -> Shapes:
        """See `Prover.shapes`; without edges."""
        return self._output_shapes(outputs, count)


STRONGEST = 10  # edges of a vector whose selection is compared


class KernelProver(Prover):
    """Prover of the graphs with custom operators. `layers`: rows of each layer by region, [B, width]."""

    def __init__(
        self, subject: Subject, lowered: Lowered, dtype: str, tolerance: float, layers: Sequence[dict[str, Array]]
    ) -> None:
        library = custom_ops.library()
        super().__init__(subject, lowered, dtype, tolerance, library=library)
        self._layers = layers
        for index, graph in lowered.kernel_edges.items():
            self.edge_sessions[index] = graph_runner.session(graph, lowered.weights, library, lowered.optimization)

    def zone(self, name: str, x: Array) -> None:
        """Outputs, and the edges of every layer, for rows x [B, ...], and the edges of the layer rows of the region."""
        super().zone(name, x)
        for index in self.lowered.kernel_edges:
            if name in self._layers[index]:
                self.layer_zone(name, index, self._layers[index][name])

    def edge_values(self, index: int, nodes: Array) -> Array:
        """See `Prover.edge_values`. Raises VerificationFailed if the selection of the strongest is not that of these
        values, bit by bit."""
        if index not in self.lowered.kernel_edges:
            return super().edge_values(index, nodes)
        layer, count = self.subject.layers[index], min(STRONGEST, self.subject.layers[index].mask.size)
        name = self.lowered.node_tensors[index]
        results: list[Array] = []
        for number in (0, count):
            feeds = {name: nodes.astype(self.dtype), custom_ops.STRONGEST: np.array([[number]], self.dtype)}
            results += graph_runner.run(self.edge_sessions[index], feeds).values()
        values, selection = results
        magnitude = np.where(np.isnan(values), np.inf, np.abs(values))
        chosen = np.argsort(-magnitude, axis=1, kind="stable")[:, :count]
        places = np.divmod(chosen, layer.destinations)
        expected = np.concatenate([np.take_along_axis(values, chosen, axis=1), *places], axis=1)
        if not np.array_equal(selection, expected, equal_nan=True):
            raise internal_check_failed(
                f"the {count} strongest edges of layer {index} are not the strongest among its edge values"
            )
        return values.reshape(len(nodes), layer.sources, layer.destinations)


FloatRows = npt.NDArray[np.floating]


def verify_clamping(layer: Layer, width: int, plain: Lowered, clamped: Lowered, dtype: str) -> int:
    """Verify that the clamped graph equals `plain` on clamped rows, bit by bit, for outputs and the edges of the
    first layer. The rows are those of all regions of the first layer, which ends with a Clip. Returns the number of
    rows that were out of grid. Raises VerificationFailed, which names the row."""
    zones = test_points.zone_rows(layer, width, seed=1)
    rows = np.concatenate(list(zones.values())).astype(dtype)
    clip, kept = layer.pre_steps[-1], rows.copy()
    assert isinstance(clip, Clip)
    for source, column in enumerate(clamping.columns(layer)):
        low, high = (ends[source].astype(rows.dtype) for ends in (clip.low, clip.high))
        kept[:, column] = np.clip(kept[:, column], low, high)
    names = (plain.node_tensors[0], clamped.node_tensors[0])
    for model, other, (name, of) in (
        (clamped.model, plain.model, (INPUT, INPUT)),
        (clamped.edges[0], plain.edges[0], names),
    ):
        actual = graph_runner.run(graph_runner.session(model, clamped.weights), {of: rows})
        expected = graph_runner.run(graph_runner.session(other, plain.weights), {name: kept})
        for output, values in expected.items():
            differing = ~_same(actual[output], values).reshape(len(rows), -1).all(axis=1)
            if differing.any():
                raise VerificationFailed(
                    f"the clamped graph gives another {output} for row {rows[int(differing.argmax())].tolist()[:8]} "
                    "than the model gives for the clamped row",
                    code="clamped-graph-differs",
                    hint="nothing was written; export with --out-of-range as-trained, which does not change inputs",
                )
    return int((~_same(rows, kept)).any(axis=1).sum())


def _same(first: FloatRows, second: FloatRows) -> npt.NDArray[np.bool_]:
    return np.asarray((first == second) | (np.isnan(first) & np.isnan(second)))
