"""`kanserve drift`: baseline rows from the export compared with current traffic, as text and as JSON."""

from pathlib import Path

import numpy as np

from tests.support import named_models
from tests.support.command_line import Server, wrong_refusals
from tests.support.named_models import BASELINE, NAMES

ROWS = named_models.ROWS[300:]


def test_rows_like_those_of_the_export_have_not_moved_and_an_export_needs_some(server: Server, rows: Path) -> None:
    text = server.shown("drift", "named", "--input", rows)
    assert "named version 1: 200 rows compared with 300 baseline rows of train.csv" in text
    for kind in ("3 inputs", "4 nodes of layer 1", "2 outputs"):
        assert f"0 of {kind} drifted" in text
    texts = ("error[baseline-missing]", "  help: export the model with --baseline FILE\n")
    assert wrong_refusals({"drift tiny": texts}, "--input", rows, "--url", server.url) == []


def test_an_input_that_moved_is_named_first(server: Server, tmp_path: Path) -> None:
    moved = tmp_path / "moved.npy"
    np.save(moved, ROWS + np.array([0, 0.5, 0], np.float32))
    said = server.ask("drift", "named", "--input", moved)
    inputs = [node for node in said["nodes"] if node["layer"] == 0]
    assert (inputs[0]["name"], [node["drifted"] for node in inputs]) == ("width", [True, False, False])
    assert said["drifted"] == sum(node["drifted"] for node in said["nodes"]) >= 1
    assert "1 of 3 inputs drifted" in server.shown("drift", "named", "--input", moved)


def test_explanations_are_against_the_mean_of_these_rows(server: Server, rows: Path, tmp_path: Path) -> None:
    said = server.ask("explain", "named", "--input", rows)
    assert (said["reference"], said["inputs"]) == ("mean", NAMES)
    mean = tmp_path / "mean.npy"
    np.save(mean, BASELINE.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32))
    same = server.ask("explain", "named", "--input", rows, "--reference", mean)
    np.testing.assert_allclose(said["contributions"], same["contributions"], atol=1e-4)
