"""`kanserve coverage`: tables, JSON and files agree with each other and with the Python client."""

from pathlib import Path

import numpy as np
import pytest

from kanserve import Client
from kanserve.client import chunking
from tests.support.command_line import Server, wrong_refusals

# Knots from -2.2 to 2.2, of which -1 to 1 are the grid, in cells of 0.4.
ROWS = np.array([[0.1, -0.5, 0.9], [0.0, 1.4, 0.2], [-2.6, 0.3, 1.2], [0.0, 1.2, 0.0]], np.float32)


def test_the_table_of_layers_and_of_the_nodes_that_are_beyond(server: Server, rows: Path) -> None:
    lines = server.shown("coverage", "tiny", "--input", rows).splitlines()
    assert lines[0].startswith("tiny version 1: 4 rows, ")
    (first,) = (line.split() for line in lines if line.startswith("    0 ") or line.lstrip().startswith("0  grid"))
    assert first[:6] == ["0", "grid", "66.7%", "25.0%", "8.3%", "1"]
    assert first[6:] == ["x0,", "row", "2", "4"]
    below = [line.split() for line in lines[lines.index("nodes with values outside their grids") :]]
    assert ["x0", "0.0%", "25.0%"] in [words[:3] for words in below]
    assert ["x1", "50.0%", "0.0%"] in [words[:3] for words in below]
    assert "1 of " in server.shown("coverage", "tiny", "--input", rows, "--show", 1)


def test_rows_inside_have_one_table(server: Server, tmp_path: Path) -> None:
    tried = np.random.default_rng(0).uniform(-1, 1, (400, 3)).astype(np.float32)
    with Client(server.url) as client:
        inside = (chunking.coverage(client, client.describe("tiny"), tried).cells == 0).all(axis=1)
    np.save(tmp_path / "inside.npy", tried[inside][:2])
    text = server.shown("coverage", "tiny", "--input", tmp_path / "inside.npy")
    assert ("0 with a node out of grid" in text, "outside their grids" in text) == (True, False)


def test_the_file_and_json_hold_the_same(server: Server, rows: Path, tmp_path: Path) -> None:
    target = tmp_path / "c.npz"
    written = server.ask("coverage", "tiny", "--input", rows, "--output", target)
    said = server.ask("coverage", "tiny", "--input", rows)
    shapes = {"counts": [4, 2, 3], "worst": [4, 2], "cells": [4, 2], "zones_0": [4, 3], "zones_1": [4, 4]}
    assert written["shapes"] == shapes
    with np.load(target, allow_pickle=False) as arrays:
        for name in ("counts", "worst", "cells"):
            np.testing.assert_array_equal(arrays[name], said[name])
        np.testing.assert_array_equal(arrays["zones_0"], [[1, 1, 1], [1, 2, 1], [3, 1, 2], [1, 2, 1]])
        np.testing.assert_array_equal((arrays["zones_1"] == 3).sum(axis=1), arrays["counts"][:, 1, 2])
    first = said["layers"][0]
    assert first["farthest"] == {"row": 2, "node": 0, "name": "x0", "cells": pytest.approx(4, abs=1e-5)}
    assert (first["definition"], first["rows_out_of_grid"]) == ("grid", 1)
    assert [first[zone] for zone in ("in_grid", "extended_grid", "out_of_grid")] == pytest.approx(
        [8 / 12, 3 / 12, 1 / 12]
    )
    top = said["nodes"][0]
    assert len(said["nodes"]) == 7
    assert top["out_of_grid"] == max(node["out_of_grid"] for node in said["nodes"])


def test_what_is_refused(server: Server, rows: Path) -> None:
    cases = {
        "coverage tiny --output c.csv": "c.csv: unknown file format .csv",
        "coverage tiny --model-version 9": "version 9",
    }
    assert wrong_refusals(cases, "--input", rows, "--url", server.url) == []
