"""`kanserve scores`: tables, JSON and the file agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import Server, document, kanserve

ROWS = np.random.default_rng(6).uniform(-0.9, 0.9, (30, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, ROWS)
    return path


def test_tables_json_and_the_file(server: Server, rows: Path, tmp_path: Path) -> None:
    target = tmp_path / "scores.npz"
    done = kanserve("scores", "tiny", "--input", rows, "--output", target, "--url", server.url)
    assert done.returncode == 0, done.stderr
    said = document(kanserve("scores", "tiny", "--input", rows, "--show", 4, "--json", "--url", server.url))
    with np.load(target) as file:
        arrays = dict(file)
    assert {name: array.shape for name, array in arrays.items()} == {
        "layer0_edge_scores": (3, 4),
        "layer0_std": (3, 4),
        "layer0_node_scores": (3,),
        "layer1_edge_scores": (4, 2),
        "layer1_std": (4, 2),
        "layer1_node_scores": (4,),
    }
    np.testing.assert_allclose(list(said["features"].values()), arrays["layer0_node_scores"])
    assert (said["source"], said["rows"], len(said["edges"])) == ("rows", 30, 4)
    largest = np.sort(np.concatenate([arrays[f"layer{at}_edge_scores"].ravel() for at in (0, 1)]))[::-1]
    np.testing.assert_allclose([edge["score"] for edge in said["edges"]], largest[:4])
    for edge in said["edges"]:
        assert edge["score"] == arrays[f"layer{edge['layer']}_edge_scores"][edge["source"], edge["destination"]]
    shown = kanserve("scores", "tiny", "--input", rows, "--url", server.url).stdout
    assert "tiny version 1: input importance (pykan attribution scores)" in shown
    assert "3 of 3 inputs, over 30 rows: the rows that you passed" in shown
    assert "12 of 20 edges" in shown


def test_without_rows_it_says_over_what(server: Server) -> None:
    done = kanserve("scores", "tiny", "--url", server.url)
    assert "synthetic verification rows of the export, not your data (pass your rows with --input)" in done.stdout


def test_one_row_is_refused(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", ROWS[:1])
    done = kanserve("scores", "tiny", "--input", tmp_path / "one.npy", "--url", server.url)
    assert (done.returncode, "scores over 1 row, expected 2 or more rows" in done.stderr) == (2, True)
