"""Tests of `ir/quantized_basis.py`."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from kanexport import bases
from kanexport.bases import Basis
from kanexport.graph import precision
from kanexport.graph.builder import Graph
from kanexport.ir.quantized_basis import Stepped, stepped

pytestmark = pytest.mark.slow


STEPPED = [basis for name in bases.names() for basis in bases.examples(name) if stepped(basis, 3, 1 << 20)]


COMPACT = [basis for basis in STEPPED if basis.compact]


@pytest.mark.parametrize(
    ("basis", "room"), [*((basis, 1 << 20) for basis in STEPPED), *((basis, 0) for basis in COMPACT)]
)
def test_steps_are_near_the_basis_and_mean_what_their_graph_gives(basis: Basis, room: int) -> None:
    sources = basis.sources or 3
    steps = stepped(basis, sources, room)
    assert steps is not None
    support = basis.support(sources)
    rng = np.random.default_rng(0)
    x = rng.uniform(*support.outer, size=(200, sources)).astype(np.float32)
    exact, meant = basis.evaluate(x.astype(float)), steps.evaluate(x.astype(float))
    # A table's entry is at most half a step of it away from where its value is from.
    moved = 0.0 if steps.table is None else np.abs(np.diff(steps.table.astype(float), axis=0)).max() * steps.unit
    assert np.abs(meant - exact).max() <= steps.unit * 0.501 + moved
    g = Graph("steps", "float32")
    value = steps.emit(g, g.input("x", sources), sources)
    session = onnxruntime.InferenceSession(g.build({"y": (value, (basis.functions, sources))}))
    apart = np.abs(session.run(["y"], {"x": x})[0] - meant)
    assert np.median(apart) <= 1e-6 * np.abs(meant).max()
    assert np.count_nonzero(apart > 1e-6) <= 0.01 * apart.size  # on the other side of a step
    assert apart.max() <= (max(1, moved / steps.unit) + 0.01) * steps.unit


@pytest.mark.parametrize("basis", [item for item in STEPPED if stepped(item, 3, 1 << 20).table is not None])
def test_a_table_is_nothing_outside_and_tells_what_is_no_number(basis: Basis) -> None:
    steps = stepped(basis, 3, 1 << 20)
    assert steps is not None
    assert steps.table is not None
    assert steps.table.max() <= precision.LARGEST
    x = np.array([[np.nan, np.inf, -np.inf], [steps.low, steps.high, 3e38]], np.float32)
    g = Graph("steps", "float32")
    value = steps.emit(g, g.input("x", 3), 3)
    session = onnxruntime.InferenceSession(g.build({"y": (value, (basis.functions, 3))}))
    for result in (session.run(["y"], {"x": x})[0], steps.evaluate(x.astype(float))):
        assert not np.nan_to_num(result).any()
        assert np.isnan(result[0, :, 0]).all() == (not basis.compact)
        assert np.isfinite(result).sum() == result.size - (0 if basis.compact else basis.functions)


def test_sums_fit_what_adds_them() -> None:
    assert 2 * precision.LARGEST**2 < 2**15
    assert precision.DEPTH * precision.LARGEST**2 < 2**31
    assert isinstance(stepped(COMPACT[0], 3, 0), Stepped)
