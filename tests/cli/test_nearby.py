"""A checkpoint in the place of a model's name: from the file to a picture and an explanation in a command each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from golden_cases import cases

from tests.cli.running import kanserve, program

HELLO = next(case for case in cases() if case.name == "pykan-hello-adapted")
NOWHERE = {"KANSERVE_URL": "127.0.0.1:9"}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder as a newcomer's: rows with names, and room for temporary files that the test sees."""
    rows = HELLO.reference()["x"][:3].astype(np.float32)
    lines = ["length,width", *(",".join(map(str, row)) for row in rows.tolist())]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "temporary").mkdir()
    return tmp_path


def test_a_picture_and_an_explanation_in_two_commands(desk: Path) -> None:
    place = {"TMPDIR": str(desk / "temporary"), **NOWHERE}
    drawn = program("plot", HELLO.path, "-o", desk / "net.svg", **place)
    assert drawn.returncode == 0, drawn.stderr
    assert "<svg" in (desk / "net.svg").read_text()
    assert "exporting it, and serving it for this command" in drawn.stderr
    assert "verified against our reading of the file" in drawn.stderr
    assert "assumed: forward = pykan" in drawn.stderr
    told = program("explain", HELLO.path, "--input", desk / "rows.csv", "--json", **place)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    total = np.array(found["base"]) + np.array(found["contributions"]).sum(axis=1)
    np.testing.assert_allclose(total, found["predictions"], atol=1e-5)
    assert found["inputs"] == ["length", "width"]
    assert not list((desk / "temporary").iterdir()), "something was left behind"


def test_what_the_export_says_is_the_error(desk: Path) -> None:
    (desk / "net.pt").write_bytes(b"no checkpoint")
    done = kanserve("plot", desk / "net.pt", "-o", desk / "net.svg", **NOWHERE)
    assert done.returncode == 2
    assert "neither a torch.save archive nor safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (desk / "net.svg").exists()


def test_a_path_with_nothing_at_its_end(desk: Path) -> None:
    done = kanserve("explain", desk / "missing", "--input", desk / "rows.csv", **NOWHERE)
    assert (done.returncode, f"there is no file {desk / 'missing'}" in done.stderr) == (2, True)


@pytest.mark.parametrize("folder", [True, False])
def test_a_folder_or_file_that_is_called_like_a_model_is_not_taken_for_a_checkpoint(
    desk: Path, monkeypatch: pytest.MonkeyPatch, *, folder: bool
) -> None:
    monkeypatch.chdir(desk)
    if folder:
        (desk / "hello").mkdir()
    else:
        (desk / "hello").write_bytes(b"")
    done = kanserve("explain", "hello", "--input", "rows.csv", "--timeout", "2", **NOWHERE)
    assert ("127.0.0.1:9" in done.stderr, "exporting" in done.stderr) == (True, False), done.stderr


def test_where_a_server_is_named_a_name_is_one_of_its_models(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    (desk / "hello.pt").write_bytes(b"")
    done = kanserve("explain", "hello.pt", "--input", "rows.csv", "--url", "127.0.0.1:1", "--timeout", "2", **NOWHERE)
    assert "127.0.0.1:1" in done.stderr
    assert "exporting" not in done.stderr
