"""`kanserve bench`: reports on a version and a checkpoint, and on wrong outputs. No test checks a time."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from kanexport.shared import manifest as manifests
from tests.support import hostile_bundles
from tests.support.command_line import document, kanserve, wrong_refusals
from tests.support.tiers import full

FEW = ("--batch", "1,4", "--threads", 1, "--rounds", 2)
PORTABLE = {"KANSERVE_KERNEL": "false"}
TORCH = importlib.util.find_spec("torch") is not None


def spoiled(repository: Path, target: Path, change: Callable[[onnx.GraphProto], None]) -> Path:
    """A copy with a changed graph. The manifest lists this graph, so that only its outputs show the change."""
    shutil.copytree(repository, target)
    version = target / "tiny" / "1"
    model = onnx.load(version / manifests.MODEL_FILE)
    change(model.graph)
    hostile_bundles.replaced(version, model.SerializeToString())
    return target


def wrong_from_three_rows_on(by: float) -> Callable[[onnx.GraphProto], None]:
    """The outputs differ from three rows on, as with a wrong large-batch graph."""

    def change(graph: onnx.GraphProto) -> None:
        supplied, result = graph.input[0].name, graph.output[0].name
        for node in graph.node:
            for at, name in enumerate(node.output):
                if name == result:
                    node.output[at] = "right"
        constants = {"two": np.array([2], np.int64), "by": np.array([by], np.float32), "none": np.zeros(1, np.float32)}
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
        graph.node.extend(
            (
                helper.make_node("Shape", [supplied], ["rows"], start=0, end=1),
                helper.make_node("Greater", ["rows", "two"], ["many"]),
                helper.make_node("Where", ["many", "by", "none"], ["off"]),
                helper.make_node("Add", ["right", "off"], [result]),
            )
        )

    return change


@pytest.fixture(autouse=True)
def _without_torch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make test` does not wait for the import of torch."""
    if request.node.get_closest_marker("full") is None:
        monkeypatch.setitem(sys.modules, "torch", None)
        monkeypatch.delitem(sys.modules, "kanserve.contrib.bench.torch_eager", raising=False)


def results(report: Any, name: str) -> list[Any]:
    return [item for item in report["results"] if item["name"] == name]


@pytest.mark.parametrize("by", [0.1, *(pytest.param(by, marks=full("combination")) for by in (float("nan"), 0.0))])
def test_a_wrong_graph_is_told_beside_its_time(repository: Path, tmp_path: Path, by: float) -> None:
    """A change by 0 is the same surgery, so only the change itself is reported of the others."""
    wrong = spoiled(repository, tmp_path / "models", wrong_from_three_rows_on(by))
    done = kanserve("bench", "tiny", "--repository", wrong, *FEW, "--json", **PORTABLE)
    reported = json.loads(done.stdout)
    actual = {item["rows"]: item["right"] for item in results(reported, "kanserve")}
    assert (done.returncode, reported["right"], actual) == (int(by != 0), by == 0, {1: True, 4: by == 0})
    assert ("wrong outputs: kanserve" in done.stderr) == (by != 0)
    error = results(reported, "kanserve")[1]["error"]
    assert error == "Infinity" if np.isnan(by) else (error > 1e-3) == (by != 0)
    assert [item["right"] for item in results(reported, "mlp")] == [True, True]
    if TORCH and np.isnan(by):  # what was found from the right edges is not the wrong graph
        assert "differs from the model" in {item["name"]: item["why"] for item in reported["left_out"]}["torch eager"]
    if by == 0.1:
        shown = kanserve("bench", "tiny", "--repository", wrong, *FEW, **PORTABLE)
        assert (shown.returncode, "WRONG" in shown.stdout) == (1, True)


def test_pieces_side_by_side(repository: Path) -> None:
    few = ("--batch", 64, "--threads", 3, "--rounds", 1, "--json")
    (item,) = results(document(kanserve("bench", "tiny", "--repository", repository, *few, **PORTABLE)), "kanserve")
    how = "3 parallel executions on 1 thread each, in micro-batches of 16384 rows"  # of 32 numbers each
    assert (item["how"], item["right"]) == (how, True)


def test_rows_of_a_file(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.npy"
    supplied = ("bench", "tiny", "--repository", repository, *FEW, "--input", file)
    np.save(file, np.zeros((5, 3), np.float32))
    assert document(kanserve(*supplied, "--json"))["input"] == f"the 5 rows of {file}, repeated"
    for rows, text in ((np.zeros((5, 4)), "found 4 columns"), (np.zeros((0, 3)), "has 0 rows")):
        np.save(file, rows)
        assert wrong_refusals({"bench tiny": text}, *supplied[2:]) == []


def test_who_is_not_installed_is_left_out(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "kanserve.contrib.bench.mlp_graph", raising=False)
    reported = document(kanserve("bench", "tiny", "--repository", repository, *FEW, "--json"))
    left = {item["name"]: item["why"] for item in reported["left_out"]}
    assert (reported["right"], left["torch eager"]) == (True, "torch is not installed")
    assert "'onnx', which is not installed" in left["mlp"]


def test_what_is_refused(repository: Path, tmp_path: Path) -> None:
    cases = {
        "bench tinny": "did you mean 'tiny'",
        "bench tiny --model-version 7": "unknown version '7' of tiny",
        "bench tiny --batch 1,0": "invalid value '0', expected a whole number from 1",
        "bench tiny --threads all": "--threads",
        "bench tiny --batch 1000000": "too many rows, expected at most ",
        "bench tiny --plot times.txt": "--plot times.txt: unknown file format .txt",
    }
    assert wrong_refusals(cases, "--repository", repository) == []
    assert wrong_refusals({"bench tiny": "is not a folder"}, "--repository", tmp_path / "models") == []
    many = {"KANSERVE_MAX_REQUEST_BYTES": "many"}
    assert wrong_refusals({"bench tiny": "max_request_bytes"}, "--repository", repository, **many) == []
