"""`kanserve drift`: baseline rows from the export compared with current traffic, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support.command_line import Server, checkpoint, document, kanserve, program, serving

ROWS = np.random.default_rng(3).normal(0, 0.4, (500, 3)).astype(np.float32)
NAMES = ("height", "width", "depth")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`tiny`, exported with rows of a .csv whose columns stand in another order."""
    folder = tmp_path_factory.mktemp("drift")
    state = checkpoint(folder / "tiny.safetensors", (3, 4, 2))
    lines = ["depth,height,width", *(f"{row[2]},{row[0]},{row[1]}" for row in ROWS[:300].tolist())]
    (folder / "train.csv").write_text("\n".join(lines))
    arguments = ("--features", ",".join(NAMES), "--baseline", folder / "train.csv", "--json")
    document(program("export", state, "--repository", folder / "models", "--name", "tiny", *arguments))
    with serving(folder / "models", folder / "log") as server:
        yield server


def test_rows_like_those_of_the_export_have_not_moved(watched: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS[300:])
    done = kanserve("drift", "tiny", "--input", tmp_path / "rows.npy", "--url", watched.url)
    assert done.returncode == 0, done.stderr
    assert "tiny version 1: 200 rows compared with 300 baseline rows of train.csv" in done.stdout
    for kind in ("3 inputs", "4 nodes of layer 1", "2 outputs"):
        assert f"0 of {kind} drifted" in done.stdout


def test_an_input_that_moved_is_named_first(watched: Server, tmp_path: Path) -> None:
    moved = ROWS[300:].copy()
    moved[:, 1] += 0.5
    np.save(tmp_path / "rows.npy", moved)
    ask = ("drift", "tiny", "--input", tmp_path / "rows.npy", "--url", watched.url)
    said = document(kanserve(*ask, "--json"))
    (inputs,) = [[node for node in said["nodes"] if node["layer"] == 0]]
    assert (inputs[0]["name"], [node["drifted"] for node in inputs]) == ("width", [True, False, False])
    assert said["drifted"] == sum(node["drifted"] for node in said["nodes"]) >= 1
    assert "1 of 3 inputs drifted" in kanserve(*ask).stdout


def test_explanations_are_against_the_mean_of_these_rows(watched: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS[:5])
    ask = ("explain", "tiny", "--input", tmp_path / "rows.npy", "--url", watched.url, "--json")
    said = document(kanserve(*ask))
    assert (said["reference"], said["inputs"]) == ("mean", list(NAMES))
    np.save(tmp_path / "mean.npy", ROWS[:300].mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32))
    same = document(kanserve(*ask, "--reference", tmp_path / "mean.npy"))
    np.testing.assert_allclose(said["contributions"], same["contributions"], atol=1e-4)


def test_a_model_without_rows_says_how_to_give_it_some(server: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    done = kanserve("drift", "tiny", "--input", tmp_path / "rows.npy", "--url", server.url)
    assert done.returncode == 2
    assert "error[baseline-missing]" in done.stderr
    assert "  help: export the model with --baseline FILE\n" in done.stderr
