"""Golden checkpoints: exported from their files only, compared with their library's float64 outputs."""

from pathlib import Path

import numpy as np
import pytest

from kanexport.pipeline import Request, export
from tests.support.golden_cases import EDGE_TOLERANCE, Case, cases, relative_error, run
from tests.support.tiers import spread


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_outputs_edges_and_sums_match_the_library(case: Case, tmp_path: Path, state_error) -> None:
    result = export(Request(path=case.path, repository=tmp_path, options=case.options))
    reference = case.reference()
    nodes = {"x": reference["x"], **run((result.directory / "model.onnx").read_bytes(), {"x": reference["x"]})}
    for group, rows in case.facts["row_groups"].items():
        error = relative_error(nodes["y"][rows], reference["y64"][rows])
        state_error("golden outputs, relative", error, f"{case.name}, {group}")
        assert error <= case.tolerance, group
    for index, layer in enumerate(result.manifest.layers):
        graph = (result.directory / layer.edges_file).read_bytes()
        edges = run(graph, {layer.node_tensor: nodes[layer.node_tensor]})
        values = edges[layer.edges_tensor]
        error = relative_error(values, reference[f"layer{index}_edges"])
        state_error("golden edges, relative", error, f"{case.name}, layer {index}")
        assert error <= EDGE_TOLERANCE
        sums = values.sum(axis=1) + np.array(layer.bias or 0.0)
        assert relative_error(sums, reference[f"layer{index}_pre"]) <= EDGE_TOLERANCE
    source = result.manifest.source
    assert source.family == case.facts["family"]
    listed = {name: entry["sha256"] for name, entry in case.facts["files"].items() if name != "reference.npz"}
    assert {file.name: file.sha256 for file in source.files} == listed
    assert result.manifest.edge_class == case.facts["edge_class"]


@spread("case", cases(), 3, ids=lambda case: case.name)
def test_float64_export_is_exact(case: Case, tmp_path: Path, state_error) -> None:
    result = export(Request(path=case.path, repository=tmp_path, options=case.options, dtype="float64"))
    reference = case.reference()
    graph = (result.directory / "model.onnx").read_bytes()
    y = run(graph, {"x": reference["x"].astype(np.float64)})["y"]
    error = relative_error(y, reference["y64"])
    state_error("golden outputs in float64, relative", error, case.name)
    assert error <= 1e-12
