"""How much an exported graph may differ from the float64 evaluation, and what excuses more.

An error beyond the tolerance is excused only where the model itself amplifies
rounding: up to `CONDITION` times the change that rounding every node and weight
makes in the float64 evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kanexport.operators import precision
from kanexport.proof.evaluate import Jitter

OUTPUT_TOLERANCE = 1e-5  # relative, unless the user says otherwise
EDGE_TOLERANCE = 5e-5  # beside it
CONDITION = 32.0  # times the change that rounding makes
DRAWS = 4  # of that rounding
OVERFLOW = 1e30  # beyond this, float32 may overflow where float64 does not
SLACK = 10.0  # for other machines' order of summation, in the server's load check


@dataclass(frozen=True, slots=True)
class Allowance:
    """Of one comparison. `scale`: the least magnitude that errors are relative to. `changes`:
    asked only beyond the tolerance, and no longer than it needs, what rounding nodes and weights
    alone does here, relative, draw by draw; `excuse`: how many times the largest is allowed.

    Example: tolerance 1e-5, excuse 32 and a change of 1e-5 allow 1e-5 + 32 * 1e-5.
    """

    tolerance: float
    scale: float
    changes: Callable[[], Iterable[float]]
    excuse: float


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Of one proof: the bounds, relative; how far conditioning may excuse an error; and the
    draws of rounding that measure conditioning."""

    outputs: float
    edges: float
    excuse: float
    jitters: tuple[Jitter, ...]

    @classmethod
    def of(cls, outputs: float, dtype: str) -> Tolerance:
        """`outputs`: what the user allows, relative; edges are allowed in proportion. `dtype`: the graph's,
        whose rounding is what conditioning amplifies."""
        # Who asks for less than the usual tolerance wants no more excused than that.
        excuse = CONDITION * min(1.0, outputs / OUTPUT_TOLERANCE)
        size = precision.rounding(dtype)
        return cls(
            outputs, outputs * EDGE_TOLERANCE / OUTPUT_TOLERANCE, excuse, tuple(Jitter(size, s) for s in range(DRAWS))
        )

    def of_reference(self) -> float:
        """Of the server's load check, which runs on other machines."""
        return self.outputs * SLACK
