"""Verification of every graph against the float64 evaluation, before the exporter writes files.

Outputs run through the serving graph; edges run twice, from the node vectors
that the serving graph gives, and from rows made for each layer, so that hidden
layers too meet each of their knots. Errors are relative to the largest finite
magnitude (of a layer, for edges) in their zone or inside the grid, whichever is
larger. An error beyond the tolerance is excused only where the model itself
amplifies rounding; `tolerances.py` says how far.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kanexport.errors import InvalidKan, VerificationFailed
from kanexport.ir import scaling
from kanexport.ir.model import Kan, Layer
from kanexport.lowering.lower import INPUT, OUTPUT, Lowered
from kanexport.shared.custom_ops import KERNEL_FILE
from kanexport.shared.manifest import MANY_FILE, Reference, Variant, Verification, Zone
from kanexport.shared.sections import EXPLAIN_FILE
from kanexport.verify import float64_reference, graph_runner, test_points
from kanexport.verify.attribution import ExplainedProver
from kanexport.verify.float64_reference import Jitter, Trace
from kanexport.verify.graph_runner import Port, Ports
from kanexport.verify.prover import KernelProver, ManyProver, Prover, Subject, table
from kanexport.verify.tolerances import CONDITION, OUTPUT_TOLERANCE, OVERFLOW, magnitude

Array = npt.NDArray[np.float64]

REFERENCE_ROWS, REFERENCE_NUMBERS = 8, 200_000


@dataclass(frozen=True, slots=True)
class _Network:
    """A Kan as the subject of its verification."""

    kan: Kan

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.kan.layers

    @property
    def ports(self) -> Ports:
        return network_ports(self.kan)

    def evaluate(self, x: Array, jitter: Jitter | None = None) -> Trace:
        return float64_reference.evaluate(self.kan, x, jitter=jitter)


def network_ports(kan: Kan) -> Ports:
    """One input and one output, both vectors."""
    return Ports((Port(INPUT, (kan.n_inputs,)),), (Port(OUTPUT, (kan.n_outputs,)),))


@dataclass(frozen=True, slots=True)
class Proof:
    """Result of a verification: the report, rows with known outputs, and the notes of the manifest on relaxed
    tolerances."""

    verification: Verification
    reference: Reference
    notes: tuple[str, ...]
    variants: tuple[Variant, ...] = ()


def verify(
    kan: Kan,
    lowered: Lowered,
    dtype: str,
    *,
    tolerance: float = OUTPUT_TOLERANCE,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Proof:
    """Verify the graphs of a network against its float64 evaluation, on rows that it generates. Raises
    VerificationFailed, which names region, place and error, and InvalidKan if the runtime cannot run the graph.

    dtype      the graphs'
    tolerance  of outputs, relative; edges are allowed in proportion
    advance    called with (done, total)
    """
    rows = _rows(kan, dtype=dtype)
    # The first layer's rows are the network's.
    own: list[dict[str, Array]] = [{}, *rows[1:]]
    return verify_subject(
        _Network(kan), lowered, dtype, zones=rows[0], layers=own, tolerance=tolerance, advance=advance
    )


def _rows(kan: Kan, seed: int = 0, dtype: str = "float32") -> list[dict[str, Array]]:
    """Rows of each layer, by region."""
    size = max(map(test_points.basis_size, kan.layers))
    return [
        test_points.zone_rows(layer, width, seed=seed + index, size=size, dtype=dtype)
        for index, (layer, width) in enumerate(zip(kan.layers, kan.widths(), strict=False))
    ]


def verify_other(
    kan: Kan, make: Callable[[Subject], Prover], file: str, *, hint: str = "", draws: int = 1
) -> tuple[tuple[Zone, ...], tuple[str, ...]]:
    """Verify another implementation of a network on the rows of `verify`, one of them also by itself. Returns the
    errors by region, and notes on relaxed tolerances. Raises VerificationFailed, which names region and place.

    make   the prover of the implementation, whose name is `file`
    hint   what to do if it differs
    draws  how many times as many rows, for an implementation that rounds its weights
    """
    prover, drawn = make(_Network(kan)), [_rows(kan, seed)[0] for seed in range(draws)]
    zones = {name: np.concatenate([rows[name] for rows in drawn]) for name in drawn[0]}
    notes = _alone(prover, zones, file, hint=hint, empty=False)
    return _zones(prover), tuple(notes)


def verify_subject(
    subject: Subject,
    lowered: Lowered,
    dtype: str,
    *,
    zones: dict[str, Array],
    layers: list[dict[str, Array]],
    tolerance: float,
    advance: Callable[[int, int], None],
    empty: bool = True,
    sizes: tuple[int, ...] = (),
) -> Proof:
    """Verify the graphs of any subject with layers, on rows given by region. Raises VerificationFailed and InvalidKan.

    zones   the model's rows [B, ...], the zone "inside" first
    layers  rows of each layer's own, [B, width]
    empty   whether the graphs take a batch of no rows
    sizes   further batch sizes to compare
    """
    prover = Prover(subject, lowered, dtype, tolerance)
    names = dict.fromkeys([*zones, *(name for own in layers for name in own)])
    total, done = len(names) * len(layers), 0
    for name in names:
        if name in zones:
            prover.zone(name, zones[name])
        for index, own in enumerate(layers):
            if name in own:
                prover.layer_zone(name, index, own[name])
            done += 1
            advance(done, total)
    prover.batches(zones["inside"], empty=empty)
    for size in sizes:
        prover.batch(np.resize(zones["inside"], (size, *zones["inside"].shape[1:])))
    _judge(prover, "the exported graph")
    reference = _reference(prover, zones["inside"])
    notes = _excuses(prover) + _left_out(prover)
    if not reference.inputs:
        notes.append(
            "no row in the grid gives only finite outputs, so the server has no reference rows for its load check"
        )
    report = Verification(
        outputs_tolerance=prover.tolerance.outputs,
        edges_tolerance=prover.tolerance.edges,
        runtime=f"{graph_runner.name()}, float64 reference",
        zones=_zones(prover),
    )
    return _others(Proof(report, reference, tuple(notes)), prover, zones, layers, empty=empty)


def _others(
    proof: Proof, prover: Prover, zones: dict[str, Array], layers: list[dict[str, Array]], *, empty: bool
) -> Proof:
    """The result with the verifications of the graphs next to the one for inference, on the same rows."""
    subject, lowered, dtype = prover.subject, prover.lowered, prover.dtype.name
    report, notes, variants, tolerance = proof.verification, list(proof.notes), proof.variants, prover.tolerance.outputs
    if lowered.explained is not None:
        explaining = ExplainedProver(subject, lowered, lowered.explained, dtype, tolerance)
        notes += _alone(explaining, zones, EXPLAIN_FILE, hint="; or export without --explain", empty=empty)
        report = dataclasses.replace(report, explaining=_zones(explaining))
    if lowered.many is not None:
        many = ManyProver(subject, lowered, lowered.many, dtype, tolerance)
        notes += _alone(many, zones, MANY_FILE, hint="; or export with --optimize-for-batch 1", empty=empty)
        variants = (Variant(file=MANY_FILE, rows=lowered.many.rows, zones=_zones(many)),)
    if lowered.kernel is not None:
        by_operator = dataclasses.replace(lowered, model=lowered.kernel)
        try:
            by_kernel = KernelProver(subject, by_operator, dtype, tolerance, layers)
            notes += _alone(by_kernel, zones, KERNEL_FILE, hint="; or export without --kernel", empty=empty)
            report = dataclasses.replace(report, kernel=_zones(by_kernel))
        except (VerificationFailed, InvalidKan) as failed:  # or the installed package has no such operator
            if not lowered.kernel_optional:
                raise
            notes.append(f"{KERNEL_FILE} was not written: {failed.message}")
    return Proof(report, proof.reference, tuple(notes), variants)


def reference(kan: Kan, lowered: Lowered, x: Array, tolerance: float) -> Reference:
    """The rows among x [B, inputs] with outputs that depend least on rounding; the graphs are in float32.
    `tolerance`: as in `verify`. Raises InvalidKan if the runtime cannot run the graphs."""
    return _reference(Prover(_Network(kan), lowered, "float32", tolerance), x)


def _alone(prover: Prover, zones: dict[str, Array], file: str, *, hint: str, empty: bool) -> list[str]:
    """Verify another graph of the network on the same rows. Returns notes on relaxed tolerances."""
    for name, x in zones.items():
        prover.zone(name, x)
    prover.batches(zones["inside"], empty=empty)
    _judge(prover, file, hint=hint)
    return [f"{file}: {note}" for note in _excuses(prover)]


def _reference(prover: Prover, x: Array) -> Reference:
    """Rows with finite outputs that do not depend on rounding, so that other machines reproduce them."""
    outputs = table(prover.subject.evaluate(x).y)
    restore = scaling.restore(prover.subject.layers)

    def in_network_units(rows: Array) -> Array:
        return table(rows) if restore is None else restore.in_network_units(table(rows))

    y = in_network_units(outputs)
    moved = [in_network_units(prover.subject.evaluate(x, jitter).y) for jitter in prover.tolerance.jitters]
    tolerance = prover.tolerance.of_reference()
    ports = prover.subject.ports
    # Each output is compared with its own magnitude.
    parts = np.split(y, np.cumsum([port.size for port in ports.outputs])[:-1], axis=1)
    scale = np.concatenate([np.full(part.shape[1], magnitude(part) or 1.0) for part in parts])
    with np.errstate(invalid="ignore"):
        change = CONDITION * np.max([(np.abs(other - y) / scale).max(axis=1) for other in moved], axis=0)
    finite = np.flatnonzero(np.isfinite(y).all(axis=1) & np.isfinite(change))
    count = max(1, min(REFERENCE_ROWS, REFERENCE_NUMBERS // (x[0].size + y[0].size)))
    chosen = finite[np.argsort(change[finite], kind="stable")][:count]
    tolerance = max(tolerance, float(change[chosen].max(initial=0)))
    return Reference(
        inputs=tuple(map(tuple, table(x[chosen]).tolist())),
        outputs=tuple(map(tuple, outputs[chosen].tolist())),
        tolerance=tolerance,
    )


def _excuses(prover: Prover) -> list[str]:
    return [
        f"{name} rows: {what} differ by {error.max_rel:.1e} relative at {error.where}; the tolerance is relaxed for "
        f"ill-conditioning: rounding of nodes and weights by itself changes them by {error.condition:.1e}, and "
        f"{prover.tolerance.excuse:g} times that is accepted"
        for name, zone in prover.zones.items()
        for what, error in (("outputs", zone.outputs), ("edges", zone.edges))
        if error.condition
    ]


def _left_out(prover: Prover) -> list[str]:
    """Notes on the rows and vectors that were not compared, by region."""
    counts = [
        (name, f"{count} {what}")
        for name, zone in prover.zones.items()
        for what, count in ((f"of {zone.rows} rows", zone.left_out), ("vectors of edges", zone.edges_left_out))
        if count
    ]
    why = f"not compared, because they have values beyond {OVERFLOW:g}, where float32 may overflow"
    return [f"{name} rows: {counted} are {why}" for name, counted in counts]


def _judge(prover: Prover, graph: str, *, hint: str = "") -> None:
    for name, zone in prover.zones.items():
        for what, error in (("outputs", zone.outputs), ("edges", zone.edges)):
            if error.excess > 1:
                raise VerificationFailed(
                    f"{graph} differs from the checkpoint on {name} rows: {what} by "
                    f"{error.max_rel:.2e} relative, {error.max_abs:.2e} absolute, at {what[:-1]} {error.where}",
                    code="graph-differs",
                    hint="nothing was written; export with --dtype float64, or set a larger --tolerance" + hint,
                )


def _zones(prover: Prover) -> tuple[Zone, ...]:
    return tuple(
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


def near_knot_excess(report: Verification) -> str:
    """The place where a verification needed a relaxed tolerance, or "". Approximate knots get no relaxed tolerance."""
    for zone in report.zones:
        for what, error, allowed in (
            ("outputs", zone.outputs_max_rel, report.outputs_tolerance),
            ("edges", zone.edges_max_rel, report.edges_tolerance),
        ):
            if not error <= allowed:
                return f"{what} of {zone.name} rows differ by {error:.1e}, more than {allowed:.1e}"
    return ""


def near_knot_notes(away: Mapping[int, float], near: Collection[int], report: Verification) -> tuple[str, ...]:
    """Notes of the manifest on layers whose knots are treated as uniform.

    away  the distance of each layer's knots from uniform, in cells
    near  the layers that are treated as uniform
    """
    if not near:
        return ()
    outputs = max(zone.outputs_max_rel for zone in report.zones)
    edges = max(zone.edges_max_rel for zone in report.zones)
    return (
        f"knots of {_layers(away, near)} count as uniform; outputs differ by at most {outputs:.1e}, "
        f"edges by {edges:.1e}, within the plain tolerances",
    )


def near_knot_rejection(away: Mapping[int, float], near: Collection[int], why: str) -> tuple[str, ...]:
    """A note on layers that cannot count as uniform together, and the reason."""
    return (
        f"knots of {_layers(away, near)} were tested as uniform: {why}; without a further note they stay as stored",
    )


def _layers(away: Mapping[int, float], near: Collection[int]) -> str:
    listed = ", ".join(f"{at} (to {away[at]:.1e} of a grid interval)" for at in near)
    return f"layer{'s' * (len(near) > 1)} {listed}"
