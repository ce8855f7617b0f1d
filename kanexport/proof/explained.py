"""The explaining graph beside what it means: answers, node vectors and edges of one run, zone by zone.

It is made of graphs that are proved by themselves; what it has to prove is that it is they.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kanexport.errors import VerificationFailed
from kanexport.lowering.lower import Explained, Lowered
from kanexport.proof import contributions
from kanexport.proof.evaluate import Jitter, Trace
from kanexport.proof.prover import Draws, Prover, Rows, Subject, ZoneErrors
from kanexport.proof.tolerance import OVERFLOW
from kanexport.proof.trial_rows import EDGE_BUDGET
from kanexport.shared.explanations import CONTRIBUTIONS, EDGES, NODES

Array = npt.NDArray[np.float64]


class ExplainedProver(Prover):
    """As `Prover`, of a graph that gives edges with its answers. `rows`: how many it is run on at most, since the edges
    of all of them are held at a time."""

    def __init__(self, subject: Subject, lowered: Lowered, explained: Explained, dtype: str, tolerance: float) -> None:
        super().__init__(subject, dataclasses.replace(lowered, model=explained.graph, edges=()), dtype, tolerance)
        tensors, self._anchor = explained.about.tensors, explained.anchor
        self._shapes_of = {tensor.name: tensor.shape[1:] for tensor in tensors}
        self._nodes = [tensor for tensor in tensors if tensor.holds == NODES]
        self._edges_of = [tensor for tensor in tensors if tensor.holds == EDGES]
        numbers = sum(int(np.prod(tensor.shape[1:])) for tensor in self._edges_of)
        if self._anchor is not None:  # which takes the edges of all layers
            numbers = max(numbers, sum(layer.mask.size for layer in subject.layers))
        self.rows = max(2, EDGE_BUDGET // max(1, numbers))

    def zone(self, name: str, x: Array) -> None:
        """Everything that the graph gives for rows x [B, ...]; of too many, some evenly."""
        if len(x) > self.rows:
            x = x[np.linspace(0, len(x) - 1, self.rows).round().astype(int)]
        errors, trace, given, keep, shaken = self.outputs(name, x)
        self._require_shapes(given, len(x))
        for tensor in self._nodes:
            self.nodes(errors, tensor.name, tensor.layer, given[tensor.name], trace, keep, shaken)
        if self._anchor is not None:
            self._contributions(errors, x, trace, given, keep, shaken)
        for tensor in self._edges_of:
            at = tensor.layer
            nodes = given[self.lowered.node_tensors[at]]
            self.layer(errors, at, nodes, trace.inputs[at], keep, shaken, given[tensor.name])

    def _contributions(
        self, errors: ZoneErrors, x: Array, trace: Trace, given: dict[str, Array], keep: Rows, shaken: Draws
    ) -> None:
        """Those of rows that are numbers, and are answered with some, each by itself and all of a row together."""
        assert self._anchor is not None
        anchor = self._anchor
        rows = keep & np.isfinite(x).all(axis=1) & np.isfinite(trace.y).all(axis=1)
        rows[rows] = contributions.contributions(anchor, _only(trace, rows), self.dtype.name)[1] < OVERFLOW
        found = given[CONTRIBUTIONS][rows]

        def exact(trace: Trace, jitter: Jitter | None = None) -> Array:
            return contributions.contributions(anchor, _only(trace, rows), self.dtype.name, jitter)[0]

        def changes() -> Iterator[Array]:
            return (exact(draw(), jitter) for draw, jitter in zip(shaken, self.tolerance.jitters, strict=True))

        expected = exact(trace)
        allowance = self.allow(CONTRIBUTIONS, self.tolerance.edges, expected, changes)
        errors.outputs.add(found, expected, allowance, lambda at: f"{CONTRIBUTIONS}[{at[1]},{at[2]}]")
        sums, y = found.sum(axis=1) + anchor.base, trace.y[rows]
        whole = self.allow("answers", self.tolerance.edges, y, lambda: [_only(draw(), rows).y for draw in shaken])
        errors.outputs.add(sums, y, whole, lambda at: f"the sum of {CONTRIBUTIONS} to {at[1]}")

    def batches(self, x: Array, *, empty: bool) -> None:
        """One row by itself, and no rows, if `empty`."""
        for count in (0, 1) if empty else (1,):
            self._require_shapes(self.run(x[:count]), count)
        self.zone("single", x[:1])

    def _require_shapes(self, given: dict[str, Array], count: int) -> None:
        """Raises VerificationFailed where an output is not as its description has it."""
        for name, shape in self._shapes_of.items():
            if name not in given or given[name].shape != (count, *shape):
                found = given[name].shape if name in given else "nothing"
                raise VerificationFailed(f"{count} rows give {name} of shape {found}, not {(count, *shape)}")


def _only(trace: Trace, rows: Rows) -> Trace:
    return Trace(trace.y[rows], tuple(one[rows] for one in trace.inputs), trace.peak[rows])
