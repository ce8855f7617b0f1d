"""Explanations and coverage of every golden model: contributions sum to the prediction and do not change it."""

from __future__ import annotations

import numpy as np
import pytest

from kanserve.client.sync import Client
from tests.integration.conftest import Served
from tests.support.golden_cases import Case, cases

TOLERANCE = 1e-5  # of the largest answer, as an explanation's
ASKED = {"kan.coverage": True, "kan.explain_top_k": 3}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_explanation_and_coverage_beside_the_answer(served: Served, case: Case) -> None:
    with Client(served.url) as client:
        model, described = client.model(case.name), client.describe(case.name)
        x = case.reference()["x"]
        x = x[np.isfinite(x).all(axis=1)][:32]
        bare, reported = client.infer(model, x), client.infer(model, x, parameters=ASKED)
    (y,) = bare.outputs.values()
    assert reported.outputs["y"].tobytes() == y.tobytes()
    total = reported.outputs["kan.explain.base"] + reported.outputs["kan.explain.residual"]
    total = total + reported.outputs["kan.explain.values"].sum(axis=2)
    assert np.abs(total - y).max() <= TOLERANCE * np.abs(y).max()
    definitions = str(reported.parameters["kan.coverage.definition"]).split(",")
    counts, cells = reported.outputs["kan.coverage.counts"], reported.outputs["kan.coverage.cells"]
    assert len(definitions) == len(described.layers) == counts.shape[1]
    for at, layer in enumerate(described.layers):
        zones = reported.outputs[f"kan.coverage.zones.{at}"]
        gridded = any(basis.knots and not basis.per_edge for basis in layer.bases)
        assert definitions[at] == ("grid" if gridded else "none")
        np.testing.assert_array_equal([(zones == zone).sum(axis=1) for zone in (1, 2, 3)], counts[:, at].T)
        np.testing.assert_array_equal(cells[:, at] > 0, counts[:, at, 1:].sum(axis=1) > 0)
