"""Commands with a model of multi-axis rows: input formats, edges at positions, layers by name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import toy_grid_model
from tests.support.command_line import Server, document, kanserve, serving
from tests.support.tiers import full, spread

ROWS = np.random.default_rng(11).normal(size=(6, 2, 3)).astype(np.float32)
TOLERANCE = {"rtol": 2e-5, "atol": 2e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes") / "models"
    toy_grid_model.write(folder)
    return folder


@pytest.fixture(scope="module")
def grid(folder: Path) -> Iterator[Server]:
    with serving(folder, folder.parent / "log", "--max-response-bytes", "16KiB") as running:
        yield running


@pytest.fixture(scope="module")
def rows(folder: Path) -> Path:
    np.save(folder.parent / "rows.npy", ROWS)
    return folder.parent / "rows.npy"


FLAT = "\n".join(",".join(map(str, row)) for row in ROWS.reshape(6, 6))
FORMS: dict[str, tuple[Any, int]] = {
    "nested": (ROWS.tolist(), 6),
    "flat": (ROWS.reshape(6, 6).tolist(), 6),
    "one": (ROWS[0].tolist(), 1),
    "one flat": (ROWS[0].ravel().tolist(), 1),
    "none": ([], 0),
}


def infer(grid: Server, stdin: bytes) -> Any:
    result = document(kanserve("infer", "grid", "--input", "-", "--url", grid.url, "--json", stdin=stdin))
    return np.array(result["outputs"]["y"], np.float32)


def test_rows_may_be_nested_or_flat_many_or_one(grid: Server) -> None:
    for values, count in FORMS.values():
        result = infer(grid, json.dumps(values).encode())
        np.testing.assert_allclose(result.reshape(count, 2, 1), toy_grid_model.outputs(ROWS[:count]), **TOLERANCE)


def test_a_csv_holds_flat_rows_and_gets_places_as_names(grid: Server, rows: Path, tmp_path: Path) -> None:
    np.testing.assert_allclose(infer(grid, FLAT.encode()), toy_grid_model.outputs(ROWS), **TOLERANCE)
    done = kanserve("infer", "grid", "--input", rows, "--url", grid.url)
    assert done.stdout.splitlines()[0] == "y0,y1"
    np.testing.assert_allclose(
        np.loadtxt(done.stdout.splitlines(), delimiter=",", skiprows=1),
        toy_grid_model.outputs(ROWS)[..., 0],
        **TOLERANCE,
    )
    assert kanserve("infer", "grid", "--input", rows, "--output", tmp_path / "y.npy", "--url", grid.url).returncode == 0
    assert np.load(tmp_path / "y.npy").shape == (6, 2, 1)


def test_other_shapes_are_refused_with_the_two_that_fit(grid: Server, tmp_path: Path) -> None:
    for shape in ((6, 3, 2), (6, 5), (6, 2, 3, 1), (5,), (3, 2), (6, 6, 1), ()):
        np.save(tmp_path / "rows.npy", np.zeros(shape, np.float32))
        done = kanserve("infer", "grid", "--input", tmp_path / "rows.npy", "--url", grid.url)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), shape
        assert ("shape (-1, 2, 3) or 6 columns" if shape else "is a scalar") in done.stderr, shape


def test_the_file_of_edges_has_the_positions(grid: Server, rows: Path, tmp_path: Path) -> None:
    target = tmp_path / "edges.npz"
    arguments = ("edges", "grid", "--input", rows, "--output", target, "--url", grid.url, "--json")
    facts = document(kanserve(*arguments))
    assert [layer["positions"] for layer in facts["layers"]] == [[2, 3], [2], []]
    assert [layer["edge_class"] for layer in facts["layers"]] == ["A", "B", "A"]
    with np.load(target) as result:
        assert sorted(result) == ["layer0_edges", "layer1_edges", "layer2_edges"]
        for layer in range(3):
            np.testing.assert_allclose(result[f"layer{layer}_edges"], toy_grid_model.edges(ROWS, layer), **TOLERANCE)
    document(kanserve(*arguments, "--layer", "token.kan", "--layer", 2, "--top-k", 2))
    with np.load(target) as result:
        names = [f"layer{layer}_{what}" for layer in (1, 2) for what in ("edges", "sources", "destinations")]
        assert list(result) == names
        assert result["layer1_edges"].shape == (6, 2, 2)


def test_the_table_counts_rows_and_positions(grid: Server, rows: Path) -> None:
    arguments = ("edges", "grid", "--input", rows, "--show", 2, "--url", grid.url)
    done = kanserve(*arguments, "--layer", "token.kan")
    mean = np.abs(toy_grid_model.edges(ROWS, 1)).mean(axis=(0, 1))
    source, destination = np.unravel_index(mean.argmax(), mean.shape)
    assert f"1:{source}:{destination} (token.kan: {source} → {destination})" in done.stdout
    assert f"{mean.max():.4g}" in done.stdout
    for words in ("2 of 192 edges", "layer 1 has 2;", "class B (a value depends on all sources"):
        assert words in done.stdout
    result = document(kanserve(*arguments, "--json"))
    assert [layer["name"] for layer in result["layers"]] == list(toy_grid_model.NAMES)
    assert {sum(edge["histogram"]) for edge in result["edges"]} <= {6, 12, 36}
    done = kanserve(*arguments, "--layer", "tail")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'pixels', 'token.kan', 'head.layers.0'" in done.stderr


@full("combination")
def test_a_number_that_is_a_layers_name_is_that_layer(tmp_path: Path, rows: Path) -> None:
    """As in a torch Sequential, where the layers with weights may be called 0 and 2."""
    folder = toy_grid_model.write(tmp_path)
    toy_grid_model.edit_layer(folder, 0, name="2")
    with serving(tmp_path, rows.parent / "other log") as server:
        arguments = ("edges", "grid", "--input", rows, "--top-k", 1, "--url", server.url, "--json")
        for wanted, meant in (("2", 0), ("1", 1), ("0", 0)):
            assert document(kanserve(*arguments, "--layer", wanted))["layers"][0]["index"] == meant
        done = kanserve(*arguments, "--layer", "99999999999")
        assert done.returncode == 2
        assert "unknown layer '99999999999'" in json.loads(done.stdout)["error"]["message"]


@spread("place", ["server", "folder"], 1)
def test_one_model_layer_by_layer(grid: Server, folder: Path, place: str) -> None:
    arguments = ("models", "grid", "--url", grid.url) if place == "server" else ("models", folder, "grid")
    done = kanserve(*arguments)
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "0 pixels 2 x 3 1 → 4 A 4 of 4 - tanh prelu 0.25" in lines
    assert "1 token.kan 2 12 → 16 B 192 of 192 layernorm identity -" in lines
    assert "2 head.layers.0 - 32 → 2 A 64 of 64 - tanh -" in lines
    assert "2x3 → 2x3x1 → 2x12 → 32 → 2x1" in done.stdout
    assert "B; A in layer 0, 2" in done.stdout
    assert "note: a toy" in done.stdout
    model = document(kanserve(*arguments, "--json"))["model"]
    assert (model["widths"], model["shapes"][0], model["layer_classes"]) == ([6, 6, 24, 32, 2], [2, 3], ["A", "B", "A"])
    assert [layer["name"] for layer in model["layers"]] == list(toy_grid_model.NAMES)
    assert "node_tensor" not in model["layers"][0]


def test_a_model_that_is_not_there(grid: Server, folder: Path) -> None:
    for words, says in (
        (("nothing", "--url", grid.url), "models of the server: grid"),
        ((folder, "nothing"), "unknown model 'nothing'"),
        ((folder, "grid", "--model-version", "7"), "unknown version '7' of grid"),
        ((folder / "nothing", "grid"), "is not a folder"),
    ):
        done = kanserve("models", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr


def test_names_of_a_hostile_model_are_only_text(folder: Path, tmp_path: Path) -> None:
    toy_grid_model.edit_layer(toy_grid_model.write(tmp_path), 0, name="[red]a\x1b[31m\n:smile:")
    done = kanserve("models", tmp_path, "grid")
    assert "[red]a\\x1b[31m\\n:smile:" in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout
