"""The form for runs of many rows beside what it means: answers and node vectors, zone by zone.

Of edges it gives none: those are asked of the edge graphs, which take the nodes of either form.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from kanexport.errors import VerificationFailed
from kanexport.lowering.lower import Lowered, Many
from kanexport.proof.prover import Prover, Subject

Array = npt.NDArray[np.float64]


class ManyProver(Prover):
    """As `Prover`, of another form of the serving graph."""

    def __init__(self, subject: Subject, lowered: Lowered, many: Many, dtype: str, tolerance: float) -> None:
        super().__init__(subject, dataclasses.replace(lowered, model=many.graph, edges=()), dtype, tolerance)

    def zone(self, name: str, x: Array) -> None:
        """Outputs, and the vectors that feed the layers, for rows x [B, ...]."""
        errors, trace, given, keep, shaken = self.outputs(name, x)
        for index, tensor in enumerate(self.lowered.node_tensors):
            if given[tensor].shape != trace.inputs[index].shape:
                raise VerificationFailed(
                    f"layer {index} is fed {given[tensor].shape} by the graph, not {trace.inputs[index].shape}"
                )
            self.nodes(errors, tensor, index, given[tensor], trace, keep, shaken)

    def batches(self, x: Array, *, empty: bool) -> None:
        """One row by itself, and no rows, if `empty`."""
        for count in (0, 1) if empty else (1,):
            given = self.run(x[:count])
            for port in self.subject.ports.outputs:
                if given[port.name].shape != (count, *port.shape):
                    raise VerificationFailed(f"{count} rows give {port.name} of shape {given[port.name].shape}")
        self.zone("single", x[:1])
