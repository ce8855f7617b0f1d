"""Tests of `batch/worker.py`."""

import sys
from pathlib import Path
from typing import Any

import pytest

from kanexport.batch import run as sweep
from kanexport.batch import worker
from kanexport.pipeline import Request
from tests.support.command_line import checkpoint


def test_a_file_that_takes_too_long_or_too_much_costs_itself_alone(tmp_path: Path, pykan: Any) -> None:
    """The bounds are real: a wide model against a short time and a small memory."""
    pykan([2, 1]).write(tmp_path)
    checkpoint(tmp_path / "wide.safetensors", (2000, 2000))
    request = Request(path=tmp_path, repository=tmp_path / "models")
    rows = {row.place: row for row in sweep.sweep(request, memory=512).rows}
    assert rows["toy"].result
    error = rows["wide.safetensors"].error
    assert error is not None
    assert error["kind"] == "LimitExceeded"
    size = (tmp_path / "wide.safetensors").stat().st_size / 2**20
    assert f"more than 512 MiB of memory; a file of {size:.0f} MiB needs about " in error["message"]
    assert 4 * size < int(error["hint"].split()[-1]) < 4 * size + 400
    tiny = 1e-3  # no process starts in this time
    rows = {row.place: row for row in sweep.sweep(request, seconds=tiny).rows}
    assert {row.error["kind"] for row in rows.values() if row.error} == {"LimitExceeded"}
    assert "--time-limit" in (rows["toy"].error or {})["hint"]


DEATHS = [
    ("import os; os.kill(os.getpid(), 11)", "Crashed", "signal SIGSEGV"),
    ("import os; os.kill(os.getpid(), 9)", "LimitExceeded", "killed"),
    ("raise SystemExit('gone')", "Crashed", "exit code 1: gone"),
    ("print('no JSON')", "Crashed", "exit code 0"),
]


@pytest.mark.parametrize(("code", "kind", "text"), DEATHS)
def test_a_process_that_dies_is_an_error_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: str, text: str
) -> None:
    """Another interpreter in place of the exporter: it reads the request and exits."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.buffer.read()\n{code}\n")
    script.chmod(0o755)
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).touch()
    monkeypatch.setattr(sweep.sys, "executable", str(script))
    rows = sweep.sweep(Request(path=tmp_path, repository=tmp_path / "models")).rows
    assert [row.error and row.error["kind"] for row in rows] == [kind, kind]
    assert all(row.error and text in row.error["message"] for row in rows)


def test_requests_reach_the_process_whole() -> None:
    texts = {"options": ("a=1", "b=2"), "symbolic": ("0,0,0=sin",), "functions": ("f=x",), "family": "pykan"}
    paths = {"architecture": Path("steps.toml"), "expected_outputs": (Path("x.npy"), Path("y.npy"))}
    more = {"version": 3, "tolerance": 1e-6, "shared": True}
    request = Request(path=Path("a\udcff.pt"), repository=Path("models"), **texts, **paths, **more)
    assert worker.decode(worker.encode(request, 10)) == (request, 10)


def test_a_file_in_the_current_folder_is_not_imported(tmp_path: Path, pykan: Any, monkeypatch: Any) -> None:
    pykan([2, 1]).write(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert sweep.sweep(Request(path=Path(), repository=Path("models"))).exported == 1
