"""The goals of this project's speed, as its plan has them; a new one is a line."""

from __future__ import annotations

from benchmarks.matrix.contestants import EXPORT, GEMMS
from benchmarks.matrix.goals import Goal, least, mean
from benchmarks.matrix.groups.splines import ADAPTED, UNIFORM

GOALS = (
    Goal("uniform knots, geometric mean", EXPORT, mean(UNIFORM, EXPORT), 5.0, True),
    Goal("uniform knots, least", EXPORT, least(UNIFORM, EXPORT), 2.0, True),
    Goal("adapted knots, geometric mean", EXPORT, mean(ADAPTED, EXPORT), 3.2, True),
    Goal("adapted knots, least", EXPORT, least(ADAPTED, EXPORT), 1.5, True),
    Goal("uniform knots, geometric mean", GEMMS, mean(UNIFORM, GEMMS, inverse=True), 1.8, False),
)
