"""`kanserve stats`: statistics of a model's traffic, as text and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.command_line import Server, checkpoint, document, kanserve, program, serving

ROWS = np.random.default_rng(3).normal(0, 0.4, (150, 3)).astype(np.float32)
NAMES, CLASSES = ("height", "width", "depth"), ("small", "large")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`tiny` with names, without a baseline, after requests with `ROWS`. Ten of the rows are far out of grid."""
    folder = tmp_path_factory.mktemp("stats")
    state = checkpoint(folder / "tiny.safetensors", (3, 4, 2))
    arguments = ("--features", ",".join(NAMES), "--classes", ",".join(CLASSES), "--json")
    document(program("export", state, "--repository", folder / "models", "--name", "tiny", *arguments))
    rows = ROWS.copy()
    rows[:10, 1] = 9.0
    np.save(folder / "rows.npy", rows)
    with serving(folder / "models", folder / "log") as server:
        document(kanserve("infer", "tiny", "--input", folder / "rows.npy", "--url", server.url, "--json"))
        end = time.monotonic() + 60
        while document(kanserve("stats", "tiny", "--url", server.url, "--json"))["rows"] < len(rows):
            assert time.monotonic() < end
        yield server


def test_layers_nodes_and_classes_are_told_without_a_baseline(asked: Server) -> None:
    done = kanserve("stats", "tiny", "--url", asked.url)
    assert done.returncode == 0, done.stderr
    for words in ("tiny version 1: 150 rows since", "all 150 analysed rows, counted by 1 process"):
        assert words in done.stdout
    assert "width, 6.7% out of grid" in done.stdout
    assert all(name in done.stdout for name in (*NAMES, *CLASSES))


def test_the_document_has_every_node(asked: Server) -> None:
    result = document(kanserve("stats", "tiny", "--url", asked.url, "--json"))
    inputs, hidden, answers = result["layers"]
    assert [len(layer["nodes"]) for layer in (inputs, hidden, answers)] == [3, 4, 2]
    assert [node["name"] for node in inputs["nodes"]] == list(NAMES)
    assert (inputs["out_of_grid"], inputs["nodes"][1]["out_of_grid"], inputs["nodes"][1]["max"]) == (10, 10, 9.0)
    assert {node["origin"] for node in inputs["nodes"]} == {"grid"}
    assert {node["origin"] for node in answers["nodes"]} == {"drawn"}
    for layer in result["layers"]:
        assert {sum(node["counts"]) for node in layer["nodes"]} == {150}
    assert sum(result["classes"].values()) == 150
    assert list(result["classes"]) == list(CLASSES)


def test_watching_prints_one_look_after_the_other(asked: Server) -> None:
    ask = ("stats", "tiny", "--url", asked.url, "--watch", "--updates", "2", "--interval", "1")
    done = kanserve(*ask)
    assert (done.returncode, done.stdout.count("tiny version 1")) == (0, 2)
    assert "end of the updates: the watch has sent 2 updates" in done.stderr
    lines = [json.loads(line) for line in kanserve(*ask, "--json").stdout.splitlines()]
    assert [line["end_reason"] for line in lines] == ["", "the watch has sent 2 updates"]


def test_scores_over_the_traffic(asked: Server) -> None:
    said = document(kanserve("scores", "tiny", "--live", "--url", asked.url, "--json"))
    assert (said["source"], said["rows"], said["notes"]) == ("live", 150, [])
    assert max(said["features"], key=said["features"].get) in NAMES
    assert (
        "analysed rows of the model's live traffic" in kanserve("scores", "tiny", "--live", "--url", asked.url).stdout
    )
    both = kanserve("scores", "tiny", "--live", "--input", "rows.npy", "--url", asked.url)
    assert (both.returncode, "--live cannot be combined with --input" in both.stderr) == (2, True)


def test_a_version_that_serves_no_more_names_the_one_that_does(asked: Server) -> None:
    done = kanserve("stats", "tiny", "--model-version", "7", "--url", asked.url)
    assert (done.returncode, "error[version-unknown]" in done.stderr) == (2, True), done.stderr
    assert "send version 1, the default version of model 'tiny'" in done.stderr


def test_after_a_reset_there_is_nothing_yet(asked: Server) -> None:
    said = kanserve("stats", "tiny", "--url", asked.url, "--reset")
    assert said.stdout == "tiny: counts reset\n"
    done = kanserve("stats", "tiny", "--url", asked.url, "--latest")
    assert "the latest 0 analysed rows" in done.stdout
    assert done.returncode == 0
