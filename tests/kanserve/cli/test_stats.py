"""`kanserve stats`: statistics of a model's traffic, as text and as JSON."""

import json

import numpy as np
import pytest

from tests.support.command_line import Server, kanserve, wrong_refusals
from tests.support.named_models import CLASSES, NAMES, ROWS
from tests.support.wait import until


@pytest.fixture(scope="module")
def asked(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """The server after requests with 150 rows for `counted`. Ten of the rows are far out of grid."""
    rows = ROWS[:150].copy()
    rows[:10, 1] = 9.0
    file = tmp_path_factory.mktemp("stats") / "rows.npy"
    np.save(file, rows)
    server.shown("stats", "counted", "--reset")
    server.ask("infer", "counted", "--input", file)
    until(lambda: server.ask("stats", "counted")["rows"] == len(rows))
    return server


def test_text_and_document_tell_layers_nodes_and_classes_without_a_baseline(asked: Server) -> None:
    text = asked.shown("stats", "counted")
    for words in ("counted version 1: 150 rows since", "all 150 analysed rows, counted by 1 process"):
        assert words in text
    assert "width, 6.7% out of grid" in text
    assert all(name in text for name in (*NAMES, *CLASSES))
    result = asked.ask("stats", "counted")
    inputs, hidden, responses = result["layers"]
    assert [len(layer["nodes"]) for layer in (inputs, hidden, responses)] == [3, 4, 2]
    assert [node["name"] for node in inputs["nodes"]] == NAMES
    assert (inputs["out_of_grid"], inputs["nodes"][1]["out_of_grid"], inputs["nodes"][1]["max"]) == (10, 10, 9.0)
    assert {node["origin"] for node in inputs["nodes"]} == {"grid"}
    assert {node["origin"] for node in responses["nodes"]} == {"drawn"}
    for layer in result["layers"]:
        assert {sum(node["counts"]) for node in layer["nodes"]} == {150}
    assert sum(result["classes"].values()) == 150
    assert list(result["classes"]) == CLASSES


def test_watching_prints_one_look_after_the_other(asked: Server) -> None:
    ask = ("stats", "counted", "--url", asked.url, "--watch", "--interval", "1", "--updates")
    done = kanserve(*ask, 1)
    assert (done.returncode, done.stdout.count("counted version 1")) == (0, 1)
    assert "end of the updates: the watch has sent 1 update" in done.stderr
    lines = [json.loads(line) for line in kanserve(*ask, 2, "--json").stdout.splitlines()]
    assert [line["end_reason"] for line in lines] == ["", "the watch has sent 2 updates"]


def test_scores_over_the_traffic(asked: Server) -> None:
    said = asked.ask("importance", "counted", "--live")
    assert (said["source"], said["rows"], said["notes"]) == ("live", 150, [])
    assert max(said["features"], key=said["features"].get) in NAMES
    assert "analysed rows of the model's live traffic" in asked.shown("importance", "counted", "--live")


def test_what_is_refused(asked: Server) -> None:
    cases = {
        "importance counted --live --input rows.npy": "--live cannot be combined with --input",
        "stats counted --model-version 7": (
            "error[version-unknown]",
            "send version 1, the default version of model 'counted'",
        ),
    }
    assert wrong_refusals(cases, "--url", asked.url) == []


def test_after_a_reset_there_is_nothing_yet(asked: Server) -> None:
    assert asked.shown("stats", "counted", "--reset") == "counted: counts reset\n"
    assert "the latest 0 analysed rows" in asked.shown("stats", "counted", "--latest")
