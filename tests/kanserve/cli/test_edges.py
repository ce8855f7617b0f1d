"""`kanserve edges`: the file, the table, selections, and more rows than one response holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.command_line import Server, wrong_refusals

ROWS = np.random.default_rng(3).uniform(-2, 2, (20, 3)).astype(np.float32)


def ask(server: Server, rows: Path, target: Path, *arguments: object) -> dict[str, Any]:
    """The arrays of the file that `edges --output` writes."""
    server.ask("edges", "tiny", "--input", rows, "--output", target, *arguments)
    with np.load(target, allow_pickle=False) as archive:
        return dict(archive)


def strongest(values: Any, k: int) -> tuple[Any, Any]:
    order = np.argsort(-np.abs(values).max(axis=0).ravel(), kind="stable")[:k]
    return np.unravel_index(order, values.shape[1:])


def test_a_part_of_the_edges_has_the_numbers_of_all(server: Server, rows: Path, tmp_path: Path) -> None:
    everything = ask(server, rows, tmp_path / "all.npz")
    result = ask(server, rows, tmp_path / "edges.npz", "--layer", 1)
    assert list(result) == ["layer1_edges"]
    np.testing.assert_array_equal(result["layer1_edges"], everything["layer1_edges"])
    first = everything["layer0_edges"]
    result = ask(server, rows, tmp_path / "edges.npz", "--layer", 0, "--source", 2, "--source", 0, "--destination", 3)
    sources, destinations = result["layer0_sources"], result["layer0_destinations"]
    assert (sorted(sources), list(destinations)) == ([0, 2], [3])
    np.testing.assert_array_equal(result["layer0_edges"], first[:, sources][:, :, destinations])
    result = ask(server, rows, tmp_path / "edges.npz", "--layer", 0, "--top-k", 5)
    sources, destinations = strongest(first, 5)
    np.testing.assert_array_equal(result["layer0_sources"], sources)
    np.testing.assert_array_equal(result["layer0_destinations"], destinations)
    np.testing.assert_array_equal(result["layer0_edges"], first[:, sources, destinations])
    table = [server.ask("edges", "tiny", "--input", rows, "--json", *words)["edges"] for words in ((), ("--top-k", 3))]
    assert [edge["mean_abs"] for edge in table[1]] == [edge["mean_abs"] for edge in table[0]][:3]  # of all layers


def test_rows_beyond_the_bounds_travel_in_parts(server: Server, tmp_path: Path) -> None:
    # 16 KiB hold 341 rows of 12 edges, and a query has at most 500 rows.
    many = np.random.default_rng(4).uniform(-3, 3, (1200, 3)).astype(np.float32)
    np.save(tmp_path / "rows.npy", many)
    everything = ask(server, tmp_path / "rows.npy", tmp_path / "all.npz")["layer0_edges"]
    assert everything.shape == (1200, 3, 4)
    np.save(tmp_path / "last.npy", many[1190:])
    last = ask(server, tmp_path / "last.npy", tmp_path / "last.npz")["layer0_edges"]
    np.testing.assert_allclose(everything[1190:], last, rtol=1e-6)
    result = ask(server, tmp_path / "rows.npy", tmp_path / "top.npz", "--layer", 0, "--top-k", 4)
    sources, destinations = strongest(everything, 4)
    np.testing.assert_array_equal(result["layer0_sources"], sources)
    np.testing.assert_array_equal(result["layer0_destinations"], destinations)
    np.testing.assert_allclose(result["layer0_edges"], everything[:, sources, destinations], rtol=1e-6)


def test_the_table_names_edges_with_their_values(server: Server, rows: Path, tmp_path: Path) -> None:
    everything = ask(server, rows, tmp_path / "all.npz")["layer0_edges"]
    arguments = ("edges", "tiny", "--input", rows, "--layer", 0, "--show", 3)
    text = server.shown(*arguments)
    mean = np.abs(everything).mean(axis=0)
    source, destination = np.unravel_index(mean.argmax(), mean.shape)
    first = next(line for line in text.splitlines() if "→" in line and line.lstrip().startswith("0:"))
    assert first.split()[:4] == [f"0:{source}:{destination}", f"(x{source}", "→", f"{destination})"]
    assert f"{mean.max():.4g}" in first
    assert "3 of 12 edges" in text
    edges = server.ask(*arguments)["edges"]
    assert [edges[0]["source"], edges[0]["destination"]] == [source, destination]
    assert edges[0]["mean_abs"] == pytest.approx(float(mean.max()), rel=1e-5)
    assert sum(edges[0]["histogram"]) == 20


def test_non_finite_rows_still_make_a_table(server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[["NaN", 0, "Infinity"]]')
    arguments = ("edges", "tiny", "--input", tmp_path / "rows.json")
    assert server.ask(*arguments)["edges"][0]["mean_abs"] in ("NaN", "Infinity")
    assert server.shown(*arguments)


def test_what_is_not_there_is_named(server: Server, rows: Path) -> None:
    cases = {
        "edges tiny --layer 7": "unknown layer 7: the model has 2 layers",
        "edges tiny --layer 0 --source 99": "99",
        "edges tiny --layer 0 --destination 99": "99",
        "edges tiny --layer head": "unknown layer 'head': the layers of the model have no names; its 2 layers have the "
        "numbers 0 to 1",
        "edges tiny --edge 0:1": "edge '0:1' is not LAYER:SOURCE:DESTINATION",
        "edges tiny --edge 0:1:2 --layer 0": "--edge cannot be combined with --layer, --source or --destination",
        "edges tiny --edge 0:1:2 --path 0 0": "--path cannot be combined with --edge",
        "edges tiny --output edges.csv": ".npz",
    }
    assert wrong_refusals(cases, "--input", rows, "--url", server.url) == []
