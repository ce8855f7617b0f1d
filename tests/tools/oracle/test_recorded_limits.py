"""The oracle of the limit of recorded outputs: it calibrates the limit by the formulas of the libraries, in torch."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.tiers import spread

pytest.importorskip("torch")

from tools.oracle import recorded_limits

# Right readings that earlier limits rejected.
HARD = [("chebykan", 2), ("chebykan, LayerNorm", 5), ("torch-conv-kan, spline", 3)]


@spread("cases", [HARD, *([(name, seed) for seed in range(3)] for name in recorded_limits.FAMILIES)], 1, "rare")
def test_rounding_of_libraries_is_explained_and_near_readings_are_not(cases: Any, tmp_path: Path) -> None:
    assert recorded_limits.run(tmp_path, cases).failures == []
