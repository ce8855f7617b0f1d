"""What was rounded because it was asked for, and what that changes: measured at the export, kept in the manifest.
Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

# Of a branch: sums of bytes, or its coefficients alone in fewer bits, or as they are.
SUMS, BYTES, HALVES, AS_IS = "int8", "int8 weights", "float16 weights", "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One term of a layer: how it is computed, and the largest change of an answer where it alone is rounded so,
    relative to the largest answer. `first`: the same for the fewest bits that were tried."""

    layer: int
    term: int
    kind: str
    form: str
    error: float
    first: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximation:
    """Of a model that is served with fewer bits than it was trained with.

    asked    SUMS or HALVES; empty where nothing is approximate
    max_error  what was allowed, relative to the largest answer
    rows     on which the errors were measured, and where they are from: a file's name and sha256, or made by the export
    error, median  the largest and the median difference of an answer from the checkpoint's, relative to the largest
    changed  of how many rows another output is the largest; -1 where there is one output
    """

    asked: str = ""
    max_error: float = 0.0
    rows: int = 0
    rows_from: str = ""
    rows_sha256: str = ""
    error: float = 0.0
    median: float = 0.0
    changed: int = -1
    branches: tuple[Branch, ...] = ()

    @property
    def text(self) -> str:
        """In a sentence; empty where nothing is approximate."""
        if not self.asked:
            return ""
        top = f"; another output is the largest in {self.changed} of them" if self.changed >= 0 else ""
        return (
            f"APPROXIMATE, as asked for ({self.asked}): answers differ from the checkpoint's by up to {self.error:.1e} "
            f"of the largest answer, {self.median:.1e} in the median, on {self.rows} rows ({self.rows_from}){top}"
        )

    def notes(self) -> tuple[str, ...]:
        """Sentences for people; none where nothing is approximate."""
        if not self.asked:
            return ()
        return (self.text, *map(_branch, self.branches), EDGES)


EDGES = (
    "edges, curves and explanations are those of the rounded coefficients, computed in float32: the functions that are "
    "served, not those of the checkpoint; where sums are of bytes, an answer differs from the sum of its edges by the "
    "rounding of their values"
)
EXACT = Approximation()


def _branch(branch: Branch) -> str:
    what = f"layer {branch.layer}, {branch.kind}: {branch.form}"
    alone = f", alone {branch.error:.1e}" if branch.form != AS_IS else ""
    why = f", since fewer bits of it alone change answers by {branch.first:.1e}" if branch.first > branch.error else ""
    return what + alone + why
