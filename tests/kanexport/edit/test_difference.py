"""The difference report: changes of outputs, flips, curves, and rows from the histograms of a baseline."""

import dataclasses
import json

import numpy as np
import pytest

from kanexport.bases.bspline import BSpline
from kanexport.edit import apply as edits
from kanexport.edit import difference, operations
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.shared.sections import NodeBaseline
from kanexport.verify import float64_reference
from tests.support import toy_model


def network(outputs: int = 2) -> Kan:
    """Two inputs, one layer of splines."""
    basis = BSpline(np.tile(np.linspace(-2, 2, 12), (2, 1)), 3)
    coef = np.random.default_rng(0).normal(size=(2, outputs, basis.functions))
    layer = Layer((BasisTerm(basis, coef),), np.ones((2, outputs)), np.zeros(outputs), np.zeros((2, outputs), bool))
    return Kan(2, (layer,))


def report(kan: Kan, x: np.ndarray, *requested: operations.EdgeEdit) -> difference.Difference:
    edited = edits.apply(kan, requested)
    return difference.compare(kan, edited.kan, x, "these rows", edited.changes, ["a", "b"][: kan.n_outputs])


def test_changes_of_the_outputs_and_flips() -> None:
    kan, x = network(), np.random.default_rng(1).uniform(-0.9, 0.9, (200, 2))
    found = report(kan, x, operations.parse("0:1:0", "raise", -3))
    y = float64_reference.evaluate(kan, x).y
    assert (found.rows, found.rows_from) == (200, "these rows")
    changes = [(output.name, output.largest, output.mean) for output in found.outputs]
    assert changes == [("a", pytest.approx(3), pytest.approx(3)), ("b", 0, 0)]
    flipped = (y[:, 0] > y[:, 1]) & (y[:, 0] - 3 < y[:, 1])
    assert found.changed == flipped.sum() > 0
    assert found.flips == (difference.Flips("a", "b", int(flipped.sum())),)
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_the_row_that_changes_most() -> None:
    kan, x = network(1), np.array([[0.0, 0.0], [0.5, 0.3], [-0.5, 0.1]])
    found = report(kan, x, operations.parse("0:0:0", "to", "x**2"), operations.parse("0:1:0", "zero", True))
    before = float64_reference.evaluate(kan, x).y[:, 0]
    changes = np.abs(x[:, 0] ** 2 - before)
    at = int(changes.argmax())
    assert found.outputs[0].row == at
    assert found.outputs[0].largest == pytest.approx(changes.max())
    worst = found.worst_row
    assert worst == difference.WorstRow(at, tuple(x[at]), (pytest.approx(before[at]),), (pytest.approx(x[at, 0] ** 2),))
    assert (found.changed, found.flips) == (-1, ())


def test_the_curves_before_and_after() -> None:
    kan = network()
    found = report(kan, np.zeros((1, 2)), operations.parse("0:1:0", "to", "3*x"))
    (curve,) = found.curves
    low, high = curve.grid
    assert (curve.edge, curve.operation, curve.form) == ("0:1:0", "to 3*x", "exact")
    assert len(curve.x) == len(curve.before) == len(curve.after) == difference.CURVE_POINTS
    assert curve.x[0] < low < high < curve.x[-1]
    assert curve.after == pytest.approx([3 * x for x in curve.x])
    assert curve.range_after == pytest.approx((3 * low, 3 * high))
    assert curve.range_before != curve.range_after


def test_rows_without_finite_outputs_are_counted_apart() -> None:
    x = np.array([[0.5, 0.1], [-5.0, 0.1], [0.2, 0.1]])
    kan = network(1)
    found = report(kan, x, operations.parse("0:0:0", "to", "log(x+2)"))
    assert found.not_finite == (0, 1)
    assert np.isfinite(found.outputs[0].largest)
    assert found.worst_row is not None
    assert found.worst_row.row != 1
    only = report(kan, x[1:2], operations.parse("0:0:0", "to", "log(x+2)"))
    assert (only.worst_row, only.outputs[0].largest) == (None, 0)


def test_rows_have_the_histogram_of_the_baseline() -> None:
    manifest = toy_model.manifest("toy")
    nodes = NodeBaseline(
        cells=((0.0, 1.0, 3.0),),
        counts=((0, 30, 70, 0), (10, 0, 0, 90), (0, 0, 0, 0)),
        nonfinite=(0, 0, 5),
        mean=(0.0, 0.0, 7.0),
        std=(1.0, 1.0, 1.0),
    )
    assert difference.of_baseline(manifest) is None
    known = dataclasses.replace(manifest, baseline=dataclasses.replace(manifest.baseline, rows=100, layers=(nodes,)))
    x = difference.of_baseline(known, 20_000)
    assert x is not None
    assert np.histogram(x[:, 0], [0, 1, 3])[0] / 20_000 == pytest.approx([0.3, 0.7], abs=0.02)
    assert (x[:, 1] == 0).mean() == pytest.approx(0.1, abs=0.02)
    assert (x[:, 1] == 3).mean() == pytest.approx(0.9, abs=0.02)
    assert (x[:, 2] == 7).all()
