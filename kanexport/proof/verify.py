"""The proof: every graph against the float64 evaluation, before anything is kept.

Outputs run through the serving graph; edges run twice, from the node vectors
that the serving graph gives, and from rows made for each layer, so that hidden
layers too meet each of their knots. Errors are relative to the largest finite
magnitude (of a layer, for edges) in their zone or inside the grid, whichever is
larger. An error beyond the tolerance is excused only where the model itself
amplifies rounding: up to `CONDITION` times the change that rounding every node
and weight makes in the float64 evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, VerificationFailed
from kanexport.form.ir import Kan, Layer
from kanexport.lowering.lower import Lowered
from kanexport.lowering.serving import INPUT, OUTPUT
from kanexport.manifest import Reference, Verification, Zone
from kanexport.proof import evaluate, runtime, trial_rows
from kanexport.proof.compare import LargestError, magnitude, relative_change
from kanexport.proof.evaluate import Jitter, Trace
from kanexport.proof.tolerance import CONDITION, OUTPUT_TOLERANCE, OVERFLOW, Allowance, Tolerance

Array = npt.NDArray[np.float64]

REFERENCE_ROWS, REFERENCE_NUMBERS = 8, 200_000


@dataclass
class _ZoneErrors:
    rows: int = 0
    outputs: LargestError = field(default_factory=LargestError)
    edges: LargestError = field(default_factory=LargestError)


def _output(at: tuple[int, ...]) -> str:
    return str(at[1])


def _edge(layer: int) -> Callable[[tuple[int, ...]], str]:
    return lambda at: f"({layer},{at[1]},{at[2]})"


class Subject(Protocol):
    """What a graph is held against: its layers, and what it means in float64."""

    @property
    def layers(self) -> tuple[Layer, ...]: ...

    def evaluate(self, x: Array, jitter: Jitter | None = None) -> Trace:
        """Rows [B, ...] to outputs [B, ...] and the layers' input vectors [B, *positions, width]."""


@dataclass(frozen=True, slots=True)
class _Network:
    """A Kan as the subject of its own proof."""

    kan: Kan

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.kan.layers

    def evaluate(self, x: Array, jitter: Jitter | None = None) -> Trace:
        return evaluate.evaluate(self.kan, x, jitter=jitter)


class _Prover:
    """Sessions of one lowered model, and the errors found so far."""

    def __init__(self, subject: Subject, lowered: Lowered, dtype: str, tolerance: float) -> None:
        self.subject, self.lowered, self.dtype = subject, lowered, np.dtype(dtype)
        self.tolerance = Tolerance.of(tolerance, dtype)
        self.session = runtime.session(lowered.model)
        self.edge_sessions = [runtime.session(model) for model in lowered.edges]
        self.zones: dict[str, _ZoneErrors] = {}
        self.scales: dict[int, float] = {}  # magnitudes inside the grid: by layer, and of y as layer -1

    def run(self, x: Array) -> dict[str, Array]:
        """All outputs of the serving graph, and its input, as float64."""
        return {INPUT: x, **runtime.run(self.session, {INPUT: x.astype(self.dtype)})}

    def edge_values(self, index: int, nodes: Array) -> Array:
        """[B, n] -> [B, I, O]"""
        name = self.lowered.node_tensors[index]
        return next(iter(runtime.run(self.edge_sessions[index], {name: nodes.astype(self.dtype)}).values()))

    def zone(self, name: str, x: Array) -> None:
        """Outputs, and the edges of every layer from the graph's own nodes."""
        errors = self.zones.setdefault(name, _ZoneErrors())
        errors.rows += len(x)
        trace = self.subject.evaluate(x)
        shaken = functools.cache(lambda: [self.subject.evaluate(x, jitter) for jitter in self.tolerance.jitters])
        found = self.run(x)
        keep = trace.peak < OVERFLOW
        if name == "inside" and not keep.any():
            raise InvalidKan(
                f"every row inside the grid gives values beyond {OVERFLOW:g}; nothing can be proved there",
                hint="the training has diverged; export an earlier checkpoint",
            )
        if found[OUTPUT].shape != trace.y.shape:
            raise VerificationFailed(f"{len(x)} {name} rows give {found[OUTPUT].shape}, not {trace.y.shape}")
        y = _table(trace.y[keep])
        allowance = self._allow(-1, self.tolerance.outputs, y, lambda: [_table(other.y[keep]) for other in shaken()])
        errors.outputs.add(_table(found[OUTPUT][keep]), y, allowance, _output)
        for index, layer in enumerate(self.subject.layers):
            nodes, exact = found[self.lowered.node_tensors[index]], trace.inputs[index]
            if nodes.shape != exact.shape:
                raise VerificationFailed(f"layer {index} is fed {nodes.shape} by the graph, not {exact.shape}")
            nodes, exact = _vectors(nodes[keep]), _vectors(exact[keep])
            some = _some(len(exact), len(x), layer)
            moved = functools.partial(
                lambda at, some: [_vectors(other.inputs[at][keep])[some] for other in shaken()], index, some
            )
            nodes, exact = nodes[some], exact[some]
            self._edges(errors, index, layer, nodes, exact, moved)

    def layer_zone(self, name: str, index: int, x: Array) -> None:
        """The edges of one layer from rows made for it."""
        moved = functools.cache(lambda: [jitter.shake(x) for jitter in self.tolerance.jitters])
        # `rows` counts rows of the model; a zone without any counts the layer's.
        errors = self.zones.setdefault(name, _ZoneErrors(rows=len(x)))
        self._edges(errors, index, self.subject.layers[index], x, x, moved)

    def _edges(
        self,
        errors: _ZoneErrors,
        index: int,
        layer: Layer,
        nodes: Array,
        exact: Array,
        moved: Callable[[], list[Array]],
    ) -> None:
        for part, values, peak in evaluate.edges(layer, exact):
            fits = peak < OVERFLOW
            shaken = functools.partial(_shaken_edges, layer, moved, self.tolerance.jitters, part, fits)
            allowance = self._allow(index, self.tolerance.edges, values[fits], shaken)
            errors.edges.add(self.edge_values(index, nodes[part])[fits], values[fits], allowance, _edge(index))

    def _allow(self, index: int, tolerance: float, exact: Array, shaken: Callable[[], list[Array]]) -> Allowance:
        """Remembers the first magnitude of its kind: the zone inside the grid comes first."""
        scale = self.scales.setdefault(index, magnitude(exact))
        return Allowance(
            tolerance, scale, lambda: max(relative_change(exact, other) for other in shaken()), self.tolerance.excuse
        )

    def batches(self, x: Array, *, empty: bool) -> None:
        """No rows give no rows, and one row by itself gives what it gives among many."""
        trace = self.subject.evaluate(x[:1])
        for count in (0, 1) if empty else (1,):
            part = x[:count]
            found = self.run(part)
            shapes = {OUTPUT: (count, *trace.y.shape[1:])}
            given = {OUTPUT: found[OUTPUT].shape}
            for index, (layer, exact) in enumerate(zip(self.subject.layers, trace.inputs, strict=True)):
                nodes = _vectors(found[self.lowered.node_tensors[index]])
                left_out = len(nodes) - len(some := _some(len(nodes), count, layer))
                vectors, *rest = self.edge_values(index, nodes[some]).shape
                given[f"edges of layer {index}"] = (vectors + left_out, *rest)
                shapes[f"edges of layer {index}"] = (count * len(_vectors(exact)), layer.sources, layer.destinations)
            for name, shape in shapes.items():
                if given[name] != shape:
                    raise VerificationFailed(f"{count} rows give {name} of shape {given[name]}, not {shape}")
            if count:
                self.zone("single", part)


@dataclass(frozen=True, slots=True)
class Proof:
    """The report, rows with known answers, and what had to be excused, in words."""

    verification: Verification
    reference: Reference
    notes: tuple[str, ...]


def verify(
    kan: Kan,
    lowered: Lowered,
    dtype: str,
    *,
    tolerance: float = OUTPUT_TOLERANCE,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Proof:
    """Compare graphs and meaning.

    `advance(done, total)` is called as it goes. Raises VerificationFailed, naming
    zone, place and error, and InvalidKan if the runtime cannot run the graph.
    """
    size = max(map(trial_rows.basis_size, kan.layers))
    made = [
        trial_rows.zone_rows(layer, width, seed=index, size=size)
        for index, (layer, width) in enumerate(zip(kan.layers, kan.widths(), strict=False))
    ]
    # The first layer's rows are the network's.
    own: list[dict[str, Array]] = [{}, *made[1:]]
    return prove(_Network(kan), lowered, dtype, zones=made[0], layers=own, tolerance=tolerance, advance=advance)


def prove(
    subject: Subject,
    lowered: Lowered,
    dtype: str,
    *,
    zones: dict[str, Array],
    layers: list[dict[str, Array]],
    tolerance: float,
    advance: Callable[[int, int], None],
    empty: bool = True,
) -> Proof:
    """As `verify`, from rows given by zone: the model's, the one "inside" first, and
    each layer's own. `empty`: whether a batch of no rows must be answered. Raises VerificationFailed and InvalidKan."""
    prover = _Prover(subject, lowered, dtype, tolerance)
    names = dict.fromkeys([*zones, *(name for made in layers for name in made)])
    total, done = len(names) * len(layers), 0
    for name in names:
        if name in zones:
            prover.zone(name, zones[name])
        for index, made in enumerate(layers):
            if name in made:
                prover.layer_zone(name, index, made[name])
            done += 1
            advance(done, total)
    prover.batches(zones["inside"], empty=empty)
    _judge(prover)
    reference = _reference(prover, zones["inside"])
    notes = _excuses(prover)
    if not reference.inputs:
        notes.append("no row inside the grid gives finite outputs only, so the server has no reference rows to check")
    return Proof(_report(prover), reference, tuple(notes))


def _reference(prover: _Prover, x: Array) -> Reference:
    """Rows whose answer is finite and does not hang on rounding, so that it holds on
    other machines too."""
    y = _table(prover.subject.evaluate(x).y)
    moved = [_table(prover.subject.evaluate(x, jitter).y) for jitter in prover.tolerance.jitters]
    tolerance = prover.tolerance.of_reference()
    with np.errstate(invalid="ignore"):
        change = CONDITION * np.max([np.abs(other - y).max(axis=1) for other in moved], axis=0) / (magnitude(y) or 1.0)
    finite = np.flatnonzero(np.isfinite(y).all(axis=1) & np.isfinite(change))
    count = max(1, min(REFERENCE_ROWS, REFERENCE_NUMBERS // (x[0].size + y[0].size)))
    chosen = finite[np.argsort(change[finite], kind="stable")][:count]
    tolerance = max(tolerance, float(change[chosen].max(initial=0)))
    return Reference(
        inputs=tuple(map(tuple, _table(x[chosen]).tolist())),
        outputs=tuple(map(tuple, y[chosen].tolist())),
        tolerance=tolerance,
    )


def _excuses(prover: _Prover) -> list[str]:
    return [
        f"{name} rows: {what} differ by {error.max_rel:.1e} relative at {error.where}, where rounding of nodes and "
        f"weights alone changes them by {error.condition:.1e}"
        for name, zone in prover.zones.items()
        for what, error in (("outputs", zone.outputs), ("edges", zone.edges))
        if error.condition
    ]


def _some(vectors: int, count: int, layer: Layer) -> npt.NDArray[np.intp]:
    """Which vectors of a layer's are looked at, where `count` rows have many positions each."""
    most = max(count, trial_rows.EDGE_BUDGET // layer.mask.size)
    if vectors <= most:
        return np.arange(vectors)
    return np.sort(np.random.default_rng(0).permutation(vectors)[:most])


def _table(values: Array) -> Array:
    """[B, ...] -> [B, N]"""
    return values.reshape(len(values), -1 if len(values) else int(np.prod(values.shape[1:])))


def _vectors(nodes: Array) -> Array:
    """[B, *positions, n] -> [B * positions, n]"""
    return nodes.reshape(-1, nodes.shape[-1])


def _judge(prover: _Prover) -> None:
    for name, zone in prover.zones.items():
        for what, error in (("outputs", zone.outputs), ("edges", zone.edges)):
            if error.excess > 1:
                raise VerificationFailed(
                    f"the exported graph differs from the checkpoint on {name} rows: {what} by "
                    f"{error.max_rel:.2e} relative, {error.max_abs:.2e} absolute, at {what[:-1]} {error.where}",
                    hint="nothing was written; --dtype float64 keeps full precision, --tolerance sets the bound",
                )


def _report(prover: _Prover) -> Verification:
    zones = tuple(
        Zone(
            name=name,
            rows=zone.rows,
            outputs_max_abs=zone.outputs.max_abs,
            outputs_max_rel=zone.outputs.max_rel,
            edges_max_abs=zone.edges.max_abs,
            edges_max_rel=zone.edges.max_rel,
            worst_output=zone.outputs.where,
            worst_edge=zone.edges.where,
        )
        for name, zone in prover.zones.items()
    )
    return Verification(
        outputs_tolerance=prover.tolerance.outputs,
        edges_tolerance=prover.tolerance.edges,
        runtime=f"{runtime.name()}, float64 reference",
        zones=zones,
    )


def _shaken_edges(
    layer: Layer,
    moved: Callable[[], list[Array]],
    jitters: tuple[Jitter, ...],
    part: slice,
    fits: npt.NDArray[np.bool_],
) -> list[Array]:
    """Edge values of some rows, once per draw of the rounding."""
    pairs = zip(moved(), jitters, strict=True)
    return [np.concatenate([v for _, v, _ in evaluate.edges(layer, x[part], j)])[fits] for x, j in pairs]
