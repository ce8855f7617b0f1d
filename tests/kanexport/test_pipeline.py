"""Golden checkpoints: exported from their files only, compared with their library's float64 outputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from kanexport.pipeline import Request, Result, export
from tests.support.golden_cases import EDGE_TOLERANCE, Case, cases, relative_error


@pytest.fixture(scope="module", params=cases(), ids=lambda case: case.name)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Result]:
    case: Case = request.param
    return case, export(Request(path=case.path, repository=tmp_path_factory.mktemp("models"), options=case.options))


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_outputs_match_in_every_group_of_rows(exported, state_error) -> None:
    case, result = exported
    reference = case.reference()
    y = run(result.directory / "model.onnx", {"x": reference["x"]})["y"]
    for group, rows in case.facts["row_groups"].items():
        error = relative_error(y[rows], reference["y64"][rows])
        state_error("golden outputs, relative", error, f"{case.name}, {group}")
        assert error <= case.tolerance, group


def test_every_edge_value_matches(exported, state_error) -> None:
    case, result = exported
    reference = case.reference()
    nodes = {"x": reference["x"], **run(result.directory / "model.onnx", {"x": reference["x"]})}
    for index, layer in enumerate(result.manifest.layers):
        values = run(result.directory / layer.edges_file, {layer.node_tensor: nodes[layer.node_tensor]})
        error = relative_error(values[layer.edges_tensor], reference[f"layer{index}_edges"])
        state_error("golden edges, relative", error, f"{case.name}, layer {index}")
        assert error <= EDGE_TOLERANCE


def test_edges_add_up_to_the_sums(exported) -> None:
    case, result = exported
    reference = case.reference()
    nodes = {"x": reference["x"], **run(result.directory / "model.onnx", {"x": reference["x"]})}
    for index, layer in enumerate(result.manifest.layers):
        values = run(result.directory / layer.edges_file, {layer.node_tensor: nodes[layer.node_tensor]})
        sums = values[layer.edges_tensor].sum(axis=1) + np.array(layer.bias or 0.0)
        assert relative_error(sums, reference[f"layer{index}_pre"]) <= EDGE_TOLERANCE


def test_float64_export_is_exact(exported, tmp_path: Path, state_error) -> None:
    case, _ = exported
    result = export(Request(path=case.path, repository=tmp_path, options=case.options, dtype="float64"))
    reference = case.reference()
    y = run(result.directory / "model.onnx", {"x": reference["x"].astype(np.float64)})["y"]
    error = relative_error(y, reference["y64"])
    state_error("golden outputs in float64, relative", error, case.name)
    assert error <= 1e-12


def test_the_manifest_names_the_family_and_the_files(exported) -> None:
    case, result = exported
    source = result.manifest.source
    assert source.family == case.facts["family"]
    listed = {name: entry["sha256"] for name, entry in case.facts["files"].items() if name != "reference.npz"}
    assert {file.name: file.sha256 for file in source.files} == listed
    assert json.loads((result.directory / "manifest.json").read_bytes())["edge_class"] == case.facts["edge_class"]
