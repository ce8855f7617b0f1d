"""Tests of `ir/quantized_basis.py`."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from kanexport.bases import Basis
from kanexport.bases.bspline import BSpline
from kanexport.graph import precision
from kanexport.graph.builder import Graph
from kanexport.ir import quantized_basis
from kanexport.ir.quantized_basis import Stepped, SteppedPieces, stepped
from tests.support import basis_examples
from tests.support.conformance import Emitted, check_each
from tests.support.tiers import spread

STEPPED = [
    basis for name in basis_examples.names() for basis in basis_examples.examples(name) if stepped(basis, 3, 1 << 20)
]
COMPACT = [basis for basis in STEPPED if basis.compact]
ROOMS = [*((basis, 1 << 20) for basis in STEPPED), *((basis, 0) for basis in COMPACT)]


def largest_move(steps: Stepped) -> float:
    """The largest difference of two neighboring entries of a table, in codes; zero if there is no table."""
    if isinstance(steps, SteppedPieces):
        return float(np.abs(np.diff(steps.entries.astype(float), axis=1)).max())
    return 0.0 if steps.table is None else float(np.abs(np.diff(steps.table.astype(float), axis=0)).max())


def emitted(steps: Stepped, basis: Basis, sources: int) -> Emitted:
    shape = (basis.functions, sources)
    return Emitted(lambda g, x: steps.emit(g, x, sources), sources, shape, "float32", exact=True)


def check_steps(item: tuple[Basis, int]) -> None:
    basis, room = item
    sources = basis.sources or 3
    steps = stepped(basis, sources, room)
    assert steps is not None
    x = np.random.default_rng(0).uniform(*basis.support(sources).outer, size=(200, sources)).astype(np.float32)
    exact, meant = basis.evaluate(x.astype(float)), steps.evaluate(x.astype(float))
    # A table's entry is at most half a step of it away from where its value is from.
    moved = largest_move(steps) * steps.unit
    assert np.abs(meant - exact).max() <= steps.unit * 0.501 + moved
    apart = np.abs(emitted(steps, basis, sources)(x) - meant)
    assert np.median(apart) <= 1e-6 * np.abs(meant).max()
    assert np.count_nonzero(apart > 1e-6) <= 0.01 * apart.size  # on the other side of a step
    assert apart.max() <= (max(1, moved / steps.unit) + 0.01) * steps.unit


@spread("first", range(8), 1)
def test_steps_are_near_the_basis_and_mean_what_their_graph_gives(first: int) -> None:
    check_each(check_steps, ROOMS[first::8])


def check_table(basis: Basis) -> None:
    steps = stepped(basis, 3, 1 << 20)
    assert steps is not None
    assert steps.table is not None
    assert steps.table.max() <= precision.LARGEST
    x = np.array([[np.nan, np.inf, -np.inf], [steps.low, steps.high, 3e38]], np.float32)
    for result in (emitted(steps, basis, 3)(x), steps.evaluate(x.astype(float))):
        assert not np.nan_to_num(result).any()
        assert np.isnan(result[0, :, 0]).all() == (not basis.compact)
        assert np.isfinite(result).sum() == result.size - (0 if basis.compact else basis.functions)


def test_a_table_is_nothing_outside_and_tells_what_is_no_number() -> None:
    check_each(check_table, [basis for basis in STEPPED if stepped(basis, 3, 1 << 20).table is not None])


def uneven(sources: int, cells: int, degree: int = 3, *, ratio: float = 1000.0) -> BSpline:
    """Splines on separate knots, some of whose cells are up to `ratio` times as wide as others."""
    widths = ratio ** np.random.default_rng(1).uniform(-1, 0, size=(sources, cells + 2 * degree))
    knots = np.cumsum(np.concatenate([np.full((sources, 1), -2.0), widths], axis=1), axis=1)
    return BSpline(knots.astype(np.float32).astype(np.float64), degree)


def test_tables_of_each_source_are_exact_on_knots_nothing_outside_and_have_no_large_steps() -> None:
    spline = uneven(3, 5)
    steps = stepped(spline, 3, 0)
    assert isinstance(steps, SteppedPieces)
    for ratio, pieces in ((1.5, 1), (1000.0, 11)):
        own = stepped(uneven(3, 5, ratio=ratio), 3, 0)
        assert own.pieces.shape == (3, pieces + 1)
        assert largest_move(own) <= quantized_basis.STEEPEST
    knots = spline.extended.T
    np.testing.assert_allclose(steps.evaluate(knots), spline.evaluate(knots), rtol=0, atol=0.501 * steps.unit)
    beyond = np.array([[np.nan, np.inf, -np.inf], [-3e38, 3e38, np.nan], spline.extended[:, 0], spline.extended[:, -1]])
    assert not steps.evaluate(beyond).any()


@pytest.mark.parametrize("ratio", [1.5, 1000.0])
def test_a_runtime_computes_the_tables_of_each_source_when_it_loads_the_graph(ratio: float, tmp_path: Path) -> None:
    spline = uneven(4, 5, ratio=ratio)
    steps = stepped(spline, 4, 0)
    assert isinstance(steps, SteppedPieces)
    g = Graph("steps", "float32")
    model = g.build({"y": (steps.emit(g, g.input("x", 4), 4), (spline.functions, 4))})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "tables.onnx")
    onnxruntime.InferenceSession(model, options)
    graph = onnx.load(tmp_path / "tables.onnx").graph
    (table,) = (tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.UINT8)
    stored = numpy_helper.to_array(table).astype(int).reshape(steps.entries.shape)
    assert np.count_nonzero(stored != steps.entries) <= 0.001 * stored.size  # values just between two codes
    assert np.abs(stored - steps.entries).max() <= 1
    assert "QuantizeLinear" not in {node.op_type for node in graph.node}


def test_splines_with_large_tables_are_computed_in_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    spline = uneven(3, 5)
    monkeypatch.setattr(quantized_basis, "LARGEST_TABLES", 1000)
    steps = stepped(spline, 3, 0)
    assert steps is not None
    assert not steps.by_source
