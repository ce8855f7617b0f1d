"""`kanserve edit`: edges and operations of the command line, the document, the tables, and bad input."""

import functools
import json
from pathlib import Path

import pytest

from kanexport.cli import edit_command
from kanexport.errors import ExportError
from kanexport.shared import manifest as manifests
from kanexport.shared.cli.program import UsageError
from tests.kanexport.cli.test_arguments import run_command
from tests.support import command_line
from tests.support.golden_cases import case

run = functools.partial(run_command, edit_command)
ZERO = ("--edge", "0:0:0", "--zero")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a model with one version."""
    return command_line.exported(case("pykan-hello-adapted").path, "hello", into=tmp_path / "models") / "hello"


def test_the_document(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edges = "--edge", "0:0:0", "--to", "-1.2*sin(x)", "--edge", "0:1:1", "--clamp", "-0.1:0.2"
    assert run(model, *edges, "--edge", "1:3:0", "--shift", "-0.1", "--author", "ada", "--budget", "1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["name"], document["version"]) == ("hello", 2)
    assert document["directory"] == str(model / "2")
    edited = [edge["operation"] for edge in document["edit"]["edges"]]
    assert edited == ["to -1.2*sin(x)", "clamp -0.1:0.2", "shift -0.1"]
    assert document["edit"]["author"] == "ada"
    report = document["difference"]
    assert [curve["edge"] for curve in report["curves"]] == ["0:0:0", "0:1:1", "1:3:0"]
    assert report["rows_from"] == "sampled from the training grid"
    assert set(report["certificates"]) == {"outputs", "directions"}
    assert manifests.load(model / "2").edit.edges[2].operation == "shift -0.1"


def test_a_dry_run_writes_nothing_and_tables_name_the_change(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(model, *ZERO, "--budget", "0", "--dry-run") == 0
    assert "nothing was written" in capsys.readouterr().out
    assert run(model, *ZERO, "--budget", "0", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["directory"] is None
    assert sorted(path.name for path in model.iterdir()) == ["1", "config.pbtxt"]
    assert run(model, *ZERO, "--budget", "0") == 0
    text = capsys.readouterr().out
    for line in (
        "hello version 2: edit of version 1",
        "0:0:0  zero       exact",
        "change of the outputs on 2000 rows (sampled from the training grid)",
        "certificates: not requested",
        "a server serves it only by its number",
        "next: kanserve shadow hello 2, then kanserve promote hello 2",
    ):
        assert line in text, text


def test_edits_of_a_file_follow_those_of_the_arguments(model: Path, tmp_path: Path) -> None:
    (tmp_path / "edits.toml").write_text('[[edits]]\nedge = "1:0:0"\nraise = 0.5\n')
    assert run(model, *ZERO, "--file", tmp_path / "edits.toml", "--budget", "0", "--new-version", 9) == 0
    assert [edge.text for edge in manifests.load(model / "9").edit.edges] == ["edge 0:0:0 zero", "edge 1:0:0 raise 0.5"]


def test_the_version_to_edit(model: Path) -> None:
    assert run(model / "1", *ZERO, "--budget", "0") == 0
    assert run(model, "--version", 1, "--edge", "0:0:1", "--zero", "--budget", "0") == 0
    assert manifests.load(model / "3").edit.parent_version == 1
    assert run(model, "--edge", "0:0:2", "--zero", "--budget", "0") == 0
    assert manifests.load(model / "4").edit.parent_version == 3


def test_bad_input_changes_nothing(model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    for arguments, code in (
        ((), "edits-missing"),
        (("--zero",), "edge-missing"),
        (("--edge", "0:0:0"), "operation-missing"),
        (("--edge", "0:0:0", "--edge", "0:0:1", "--zero"), "operation-missing"),
        ((*ZERO, "--shift", "1"), "edge-missing"),
        ((*ZERO, *ZERO), "edge-repeated"),
        (("--edge", "0-0-0", "--zero"), "edge-malformed"),
        (("--edge", "0:0:0", "--clamp", "1"), "edit-value-invalid"),
        (("--edge", "0:0:0", "--points", "none.csv"), "points-malformed"),
        ((*ZERO, "--rows", "none.csv"), "rows-unreadable"),
        ((*ZERO, "--file", "none.json"), "edits-unreadable"),
        ((*ZERO, "--version", 4), "version-unknown"),
        ((*ZERO, "--new-version", 0), "version-invalid"),
        ((*ZERO, "--budget", "-1"), "budget-out-of-range"),
    ):
        with pytest.raises(ExportError) as caught:
            run(model, *arguments)
        assert caught.value.code == code
        assert caught.value.hint
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before


def test_a_path_that_is_no_model(tmp_path: Path, model: Path) -> None:
    for path in (tmp_path / "none", tmp_path, model / "1" / "model.onnx"):
        with pytest.raises(ExportError, match="has no version of a model"):
            run(path, *ZERO)
    with pytest.raises(ExportError, match="is a version") as caught:
        run(model / "1", *ZERO, "--version", 2)
    assert caught.value.code == "arguments-conflict"
    with pytest.raises(UsageError, match="--monoton"):
        run(model, "--edge", "0:0:0", "--monoton", "up")
