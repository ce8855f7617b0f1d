"""Golden cases from checkpoint to response: served models, requested by real clients."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from kanserve.client import chunking
from kanserve.client.errors import NotSupported
from kanserve.client.sync import Client
from tests.support import chunked
from tests.support.command_line import Server, document, kanserve
from tests.support.golden_cases import EDGE_TOLERANCE, Case, cases, relative_error
from tests.support.tiers import spread

FEW = spread("case", cases()[::2], 2, ids=lambda case: case.name)  # all of them get a response through tritonclient
ROWS = 24  # of a batch
UNITS = 1  # in the last place of the largest output; 0.5 of sines and cosines were seen, 0 of all others


@pytest.fixture(scope="module")
def responses(served: Server) -> dict[str, np.ndarray]:
    """By NVIDIA's client, which knows nothing of kanserve."""
    result = {}
    with tritonclient.grpc.InferenceServerClient(served.url) as client:
        assert client.is_server_ready()
        for case in cases():
            rows, metadata = case.reference()["x"], client.get_model_metadata(case.name)
            assert client.is_model_ready(case.name)
            tensor = tritonclient.grpc.InferInput(
                metadata.inputs[0].name, list(rows.shape), metadata.inputs[0].datatype
            )
            tensor.set_data_from_numpy(rows)
            result[case.name] = client.infer(case.name, [tensor]).as_numpy(metadata.outputs[0].name)
    return result


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_outputs_through_tritonclient(case: Case, responses: dict[str, np.ndarray], state_error) -> None:
    y, expected = responses[case.name], case.reference()["y64"]
    assert y.dtype == np.float32
    for group, rows in case.facts["row_groups"].items():
        error = relative_error(y[rows], expected[rows])
        state_error("served outputs, relative", error, f"{case.name}, {group}")
        assert error <= case.tolerance, group


@FEW
def test_every_edge_through_the_command_line(case: Case, served: Server, tmp_path: Path, state_error) -> None:
    reference = case.reference()
    np.save(tmp_path / "rows.npy", reference["x"])
    files = ("--input", tmp_path / "rows.npy", "--output", tmp_path / "edges.npz")
    done = kanserve("edges", case.name, "--url", served.url, *files)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "edges.npz") as arrays:
        result = dict(arrays)
    for index in range(case.facts["layers"]):
        values, expected = result[f"layer{index}_edges"], reference[f"layer{index}_edges"]
        assert values.dtype == np.float32
        assert values.shape == expected.shape
        error = relative_error(values, expected)
        state_error("served edges, relative to the layer", error, f"{case.name}, layer {index}")
        assert error <= EDGE_TOLERANCE
        scale = np.maximum(np.abs(expected), 1.0)
        assert np.nanmax(np.abs(values - expected) / scale) <= EDGE_TOLERANCE


@FEW
def test_curves_go_through_the_edge_values(case: Case, served: Server, state_error) -> None:
    """Where a curve begins at what a source was in a row, it begins with that row's edge value."""
    reference = case.reference()
    finite = [row for row in range(len(reference["x"])) if np.isfinite(reference["x"][row]).all()]
    with Client(served.url) as client:
        for at, layer in enumerate(client.describe(case.name).layers):
            if layer.edge_class != "A":
                with pytest.raises(NotSupported, match=f"layer {at} of model '{case.name}' is of edge class B"):
                    client.curves(case.name, layers=[at])
                continue
            expected = reference[f"layer{at}_edges"]
            scale = np.nanmax(np.abs(np.where(np.isfinite(expected), expected, 0)))
            for row in finite[:: max(1, len(finite) // 3)][:3]:
                for source in {0, layer.sources // 2, layer.sources - 1}:
                    x = float(np.float32(reference[f"layer{at}_in"][row, source]))
                    (result,) = client.curves(case.name, layers=[at], sources=[source], points=2, span=(x, x + 1))
                    assert result.x[0, 0] == x
                    error = np.abs(result.phi[0, :, 0] - expected[row, source]).max() / scale
                    state_error("curves, relative to the layer", error, f"{case.name}, layer {at}")
                    assert error <= EDGE_TOLERANCE


@FEW
def test_contributions_add_up_to_the_prediction(case: Case, served: Server, state_error) -> None:
    x = case.reference()["x"]
    rows = x[np.isfinite(x).all(axis=1)]
    with Client(served.url) as client:
        described = client.describe(case.name)
        for reference in ("", "zeros", rows[:3]):
            result = chunking.explain(client, described, rows, reference=reference)
            assert result.contributions.shape == (len(rows), x.shape[1], len(result.outputs))
            assert result.nodes_are_inputs
            total = result.base + result.contributions.sum(axis=1)
            largest = np.abs(result.predictions).max()
            missed = np.abs(total - result.predictions)
            np.testing.assert_allclose(missed, result.completeness_error, rtol=0, atol=1e-9 * largest)
            error = result.completeness_error.max() / largest
            state_error("contributions miss the prediction, relative", error, f"{case.name}, {result.reference}")
            assert error < 1e-5
        np.testing.assert_array_equal(
            result.predictions, chunked.infer(client, client.model(case.name), rows).outputs["y"]
        )
        for at, row in enumerate(rows[:3]):  # of the reference itself there is nothing to explain
            same = client.explain(described, row[None], reference=row[None])
            np.testing.assert_array_equal(same.contributions, 0.0)
            np.testing.assert_allclose(same.base, result.predictions[at], rtol=1e-5, atol=1e-6 * largest)


with np.load(Path(__file__).parents[1] / "golden" / "scores" / "pykan.npz") as archive:
    PYKAN = dict(archive)


@spread("name", sorted({key.partition("/")[0] for key in PYKAN}), 1)
def test_scores_are_pykan_s(name: str, served: Server, state_error) -> None:
    """Scores equal pykan's edge_scores, node_scores and feature_score (node scores of layer 0) for the same rows."""
    (case,) = (case for case in cases() if case.name == name)
    rows = case.reference()["x"][case.facts["row_groups"]["inside"]]
    with Client(served.url) as client:
        result = client.scores(client.describe(name), rows)
    assert (result.source, result.row_count) == ("rows", len(rows))
    for layer in result.layers:
        for what, values in (("edge_scores", layer.edges), ("node_scores", layer.nodes)):
            expected = PYKAN[f"{name}/layer{layer.layer}_{what}"]
            assert values.shape == expected.shape
            error = np.abs(values - expected).max()
            state_error("scores, against pykan's", error, f"{name}, {what}")
            assert error < 1e-4
    np.testing.assert_array_equal(result.features, result.layers[0].nodes)


def test_widths_count_nodes_after_multiplication(served: Server, golden_models: Path) -> None:
    for place in (("--url", served.url), (golden_models,)):
        listed = {model["name"]: model for model in document(kanserve("models", *place, "--json"))["models"]}
        assert listed["pykan-mult-affine"]["widths"] == [2, 3, 1]  # two sums and a product, of four subnodes
        assert listed["efficient-kan-digits"]["widths"] == [64, 16, 10]
        assert (listed["efficient-kan-digits"]["size"] is None) == (len(place) == 2)  # not on the wire


@FEW
def test_company_changes_no_more_than_the_last_bits(case: Case, served: Server, state_error) -> None:
    """Batch invariance: an output does not depend on the batch that its row is in."""
    rows = case.reference()["x"][:ROWS].astype(np.float32)
    with Client(served.url) as client, ThreadPoolExecutor(8) as pool:
        model = client.model(case.name)

        def ask(part: np.ndarray) -> np.ndarray:
            response = client.infer(model.inputs[0], part, name=case.name)
            return response.outputs[model.outputs[0].name]

        single = [rows[at : at + 1] for at in range(len(rows))]
        alone = np.concatenate([ask(row) for row in single])
        for company in (ask(rows), np.concatenate(list(pool.map(ask, single)))):
            finite = np.isfinite(alone)
            np.testing.assert_array_equal(np.where(finite, 0, company), np.where(finite, 0, alone))
            unit = np.spacing(np.abs(alone[finite]).max(initial=np.float32(0)))
            units = float(np.abs(company[finite] - alone[finite]).max(initial=0) / unit)
            state_error("in company, units in the last place", units, case.name)
            assert units <= UNITS


@FEW
def test_explanation_and_coverage_beside_the_response(case: Case, served: Server) -> None:
    asked = {"kan.coverage": True, "kan.explain_top_k": 3}
    with Client(served.url) as client:
        model, described = client.model(case.name), client.describe(case.name)
        x = case.reference()["x"]
        x = x[np.isfinite(x).all(axis=1)][:32]
        bare, reported = client.infer(model, x), client.infer(model, x, parameters=asked)
    (y,) = bare.outputs.values()
    assert reported.outputs["y"].tobytes() == y.tobytes()
    total = reported.outputs["kan.explain.base"] + reported.outputs["kan.explain.residual"]
    total = total + reported.outputs["kan.explain.values"].sum(axis=2)
    assert np.abs(total - y).max() <= 1e-5 * np.abs(y).max()
    definitions = str(reported.parameters["kan.coverage.definition"]).split(",")
    counts, cells = reported.outputs["kan.coverage.counts"], reported.outputs["kan.coverage.cells"]
    assert len(definitions) == len(described.layers) == counts.shape[1]
    for at, layer in enumerate(described.layers):
        zones = reported.outputs[f"kan.coverage.zones.{at}"]
        gridded = any(basis.knots and not basis.per_edge for basis in layer.bases)
        assert definitions[at] == ("grid" if gridded else "none")
        np.testing.assert_array_equal([(zones == zone).sum(axis=1) for zone in (1, 2, 3)], counts[:, at].T)
        np.testing.assert_array_equal(cells[:, at] > 0, counts[:, at, 1:].sum(axis=1) > 0)
