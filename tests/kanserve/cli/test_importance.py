"""`kanserve importance`: tables, JSON and the file agree."""

from pathlib import Path

import numpy as np

from tests.support.command_line import Server, exported, serving, wrong_refusals
from tests.support.golden_cases import OWN

ROWS = np.random.default_rng(6).uniform(-0.9, 0.9, (30, 3)).astype(np.float32)


def test_tables_json_and_the_file(server: Server, rows: Path, tmp_path: Path) -> None:
    target = tmp_path / "scores.npz"
    server.shown("importance", "tiny", "--input", rows, "--output", target)
    said = server.ask("importance", "tiny", "--input", rows, "--show", 4)
    with np.load(target) as file:
        arrays = dict(file)
    shapes = {"edge_scores": [(3, 4), (4, 2)], "std": [(3, 4), (4, 2)], "node_scores": [(3,), (4,)]}
    expected = {f"layer{at}_{name}": shape[at] for name, shape in shapes.items() for at in (0, 1)}
    assert {name: array.shape for name, array in arrays.items()} == expected
    np.testing.assert_allclose(list(said["features"].values()), arrays["layer0_node_scores"])
    assert (said["source"], said["rows"], len(said["edges"])) == ("rows", 30, 4)
    largest = np.sort(np.concatenate([arrays[f"layer{at}_edge_scores"].ravel() for at in (0, 1)]))[::-1]
    np.testing.assert_allclose([edge["score"] for edge in said["edges"]], largest[:4])
    for edge in said["edges"]:
        assert edge["score"] == arrays[f"layer{edge['layer']}_edge_scores"][edge["source"], edge["destination"]]
    shown = server.shown("importance", "tiny", "--input", rows)
    assert "tiny version 1: input importance (pykan attribution scores)" in shown
    assert "3 of 3 inputs, over 30 rows: the rows that you passed" in shown
    assert "12 of 20 edges" in shown


def test_without_rows_it_says_over_what(server: Server, tmp_path: Path) -> None:
    text = server.shown("importance", "tiny")
    assert "synthetic verification rows of the export, not your data (pass your rows with --input)" in text
    np.save(tmp_path / "one.npy", ROWS[:1])
    cases = {f"importance tiny --input {tmp_path / 'one.npy'}": "scores over 1 row, expected 2 or more rows"}
    assert wrong_refusals(cases, "--url", server.url) == []


def test_without_rows_importance_is_over_the_baseline_of_the_export(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(1).uniform(-1, 1, (50, 2)))
    models = exported(OWN / "pykan-hello-adapted" / "model", "base", "--baseline", tmp_path / "rows.npy", into=tmp_path)
    with serving(models, tmp_path / "log") as server:
        assert "over 50 rows: the baseline rows of the export" in server.shown("importance", "base")
        server.ask("report", "base", "-o", tmp_path / "card.html")
        card = (tmp_path / "card.html").read_text()
        assert "importance over 50 rows: the baseline rows" in card
        assert "importance over 50 rows, the baseline; black: numeric, red: symbolic, purple: both" in card
