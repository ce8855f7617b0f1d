"""Tests of `lowering/terms.py`."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from kanexport.lowering import lower
from tests.kanexport.lowering.test_lower import folder, read


def test_the_number_of_operators_does_not_grow_with_the_edges(pykan: Any, tmp_path: Path) -> None:
    counts = []
    for at, (n, m) in enumerate(((4, 4), (8, 8), (16, 4))):
        toy = pykan([n, m, 1], seed=1)
        for depth, (i, o) in enumerate(((n, m), (m, 1))):
            toy.tensors[f"act_fun.{depth}.mask"][:] = 0
            for source, destination in np.ndindex(i, o):
                name = ("sin", "x^2")[(source + destination) % 2]
                toy.symbolic(depth, source, destination, name, (1.5, 0.1 * source, 0.5, 0.1))
        lowered = lower.lower(read(toy.write(folder(tmp_path, str(at)))), "float32")
        counts.append([len(onnx.load_from_string(model).graph.node) for model in (lowered.model, *lowered.edges)])
    assert counts[0] == counts[1] == counts[2]
