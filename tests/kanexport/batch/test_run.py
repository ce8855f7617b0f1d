"""Export of a folder of checkpoints: discovery, version names, and failures that do not stop the rest."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from kanexport.batch import discover
from kanexport.batch import run as sweep
from kanexport.cli import export_command
from kanexport.errors import CheckpointError, FamilyError, OptionError, RepositoryError
from kanexport.formats import checkpoint
from kanexport.pipeline import Request
from tests.kanexport.batch.test_discover import write
from tests.support.golden_cases import case
from tests.support.tiers import full


def test_a_checkpoint_in_several_files_is_one_for_a_file_and_for_a_folder(tmp_path: Path, pykan: Any) -> None:
    for number, name in enumerate(("a.weight", "b.weight"), start=1):
        shard = safetensors.numpy.save({name: np.ones((2, 2), np.float32)})
        write(tmp_path, **{f"model-0000{number}-of-00002.safetensors": shard})
    write(tmp_path, **{"model.safetensors.index.json": b"{}"})
    write(tmp_path, **{"whole-00001-of-00001.safetensors": shard})
    prefix = pykan([2, 1]).write(tmp_path)

    listed = checkpoint.entry_points(sorted(tmp_path.iterdir()))
    assert [item.path for item in discover.find(tmp_path, tmp_path / "models")] == sorted(listed)
    first, *others = sorted(listed)
    assert first.name == "model-00001-of-00002.safetensors"
    assert [path.name for path in others] == ["toy", "whole-00001-of-00001.safetensors"]
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for part in (*shards, "model.safetensors.index.json"):
        with pytest.raises(CheckpointError, match=r"is one file of model\.safetensors, a checkpoint in shards"):
            checkpoint.load(tmp_path / part)
    assert checkpoint.load(others[1]).tensors.keys() == {"b.weight"}
    for name in (prefix, f"{prefix}_state", f"{prefix}_config.yml"):
        assert checkpoint.load(Path(name)).files == checkpoint.load(others[0]).files
    with pytest.raises(CheckpointError) as refused:
        checkpoint.load(tmp_path)
    assert all(str(path) in refused.value.hint for path in listed)


@pytest.fixture
def three(tmp_path: Path, pykan: Any) -> Path:
    """Two good checkpoints, and one with a custom function."""
    root = tmp_path / "files"
    (root / "sub").mkdir(parents=True)
    shutil.copy(case("efficient-kan-wine-update-grid").path, root / "sub" / "wine.pt")
    pykan([2, 1]).write(root)
    foreign = pykan([2, 1])
    foreign.symbolic(0, 0, 0, "mystery", (1, 0, 1, 0))
    foreign.write(tmp_path)
    for end in ("_state", "_config.yml"):
        (tmp_path / f"toy{end}").rename(root / f"foreign{end}")
    return root


@pytest.fixture
def mixed(three: Path) -> Path:
    """The same, and three that are rejected for other reasons."""
    root = three
    write(root, **{"evil\x1b[2J.pt": (root / "sub" / "wine.pt").read_bytes()[:1000], "empty.pth": b""})
    (root / "cnn.safetensors").write_bytes(safetensors.numpy.save({"conv.weight": np.ones((2, 2, 3, 3))}))
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = export_command.main([*map(str, arguments)])
    return code, *capsys.readouterr()


def test_a_report_tells_what_became_of_each(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = (mixed, "--recursive", "--repository", tmp_path / "models", "--report", tmp_path / "report.json")
    code, out, err = run(capsys, *where)
    progress = [line for line in err.splitlines() if line.startswith("exporting: ")]  # of a run that takes some time
    assert (code, err.splitlines()) == (4, progress)
    report = json.loads((tmp_path / "report.json").read_bytes())
    assert (report["format"], report["exported"], report["tried"]) == (1, 2, 6)
    files = {entry["path"]: entry for entry in report["files"]}
    assert {path: entry["error"]["kind"] for path, entry in files.items() if entry["status"] == "refused"} == {
        "cnn.safetensors": "FamilyError",
        "empty.pth": "CheckpointError",
        "evil\x1b[2J.pt": "CheckpointError",
        "foreign": "UnknownFunction",
    }
    wine = files["sub/wine.pt"]
    facts = [wine[key] for key in ("name", "family", "widths", "edge_class")]
    assert facts == ["sub-wine", "efficient-kan", [13, 6, 3], "A"]
    assert 0 < wine["outputs_max_rel"] <= 1e-5
    assert 0 < wine["edges_max_rel"] <= 5e-5
    for entry in files.values():
        assert (tmp_path / "models" / entry["name"]).exists() == (entry["status"] == "exported")
        assert entry["seconds"] > 0
    assert "2 of 6 exported" in out
    assert "empty.pth: CheckpointError" in out
    assert {entry["error"]["exit_code"] for entry in files.values() if "error" in entry} == {2}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert "'mystery'" in out
    assert "\x1b" not in out


def test_all_exported_is_success_but_not_twice(tmp_path: Path, pykan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pykan([2, 1]).write(tmp_path)
    where = (tmp_path, "--recursive", "--repository", tmp_path / "models", "--name", "mine", "--json")
    assert run(capsys, *where)[0] == 0
    assert (tmp_path / "models" / "mine-toy" / "1" / "manifest.json").is_file()
    code, out, _ = run(capsys, *where)
    assert code == 4
    assert json.loads(out)["files"][0]["error"]["kind"] == "RepositoryError"
    assert run(capsys, *where, "--force")[0] == 0


def test_options_and_functions_go_where_they_are_known_and_are_missed_elsewhere(three: Path, tmp_path: Path) -> None:
    request = Request(
        path=three,
        repository=tmp_path / "models",
        options=("base_activation=tanh", "base_fun=tanh"),
        functions=("mystery=x*sin(x)", "other=x"),
        symbolic=("7,0,0=sin",),
    )
    report = sweep.sweep(request)
    assert {row.place: row.result["options"]["given"] for row in report.rows if row.result} == {
        "sub/wine.pt": {"base_activation": "tanh"},
        "toy": {"base_fun": "tanh"},
        "foreign": {"base_fun": "tanh", "function mystery": "x*sin(x)"},
    }
    assert report.unused == ("--symbolic 7,0,0", "--function other")
    misspelt = Request(path=three / "sub", repository=tmp_path / "models", options=("base_activaton=tanh",), force=True)
    report = sweep.sweep(misspelt)
    assert (report.exported, report.unused) == (1, ("--option base_activaton",))
    assert report.exit_code == 4


@full("combination")
def test_an_architecture_is_for_the_files_that_have_its_keys(three: Path, tmp_path: Path) -> None:
    steps = tmp_path / "steps.toml"
    steps.write_text('[[step]]\nlayer="layers.0"\n[[step]]\nfunction="tanh"\n[[step]]\nlayer="layers.1"\n')
    report = sweep.sweep(Request(path=three, repository=tmp_path / "models", architecture=steps))
    reasons = {row.place: row.result["family_reason"] for row in report.rows if row.result}
    assert reasons["sub/wine.pt"] == "given with --architecture"
    assert reasons["toy"] == "act_fun.0.coef has three axes"
    assert report.unused == ()
    steps.write_text('[[step]]\nlayer="elsewhere"\n')
    report = sweep.sweep(Request(path=three / "sub", repository=tmp_path / "models", architecture=steps))
    assert (report.exported, report.unused) == (1, ("--architecture",))


def test_what_is_wrong_for_all_is_said_before_the_first(mixed: Path, tmp_path: Path) -> None:
    for changes, kind in (
        ({"options": ("a",)}, OptionError),
        ({"name": "../up"}, RepositoryError),
        ({"version": 0}, RepositoryError),
        ({"tolerance": 7.0}, OptionError),
        ({"dtype": "float8"}, OptionError),
        ({"family": "magic"}, FamilyError),
        ({"functions": ("f=import os",)}, OptionError),
        ({"architecture": Path("/no/such.toml")}, OptionError),
        ({"path": Path("/no/such/folder")}, CheckpointError),
    ):
        with pytest.raises(kind):
            sweep.sweep(Request(**({"path": mixed, "repository": tmp_path / "models"} | changes)))
    assert not (tmp_path / "models").exists()


def test_limits_are_checked(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = (mixed, "--recursive", "--repository", tmp_path / "models")
    limits = ("--time-limit", "0"), ("--time-limit", "nan"), ("--memory-limit", "3")
    reports = ("--report", tmp_path), ("--report", tmp_path / "no" / "r.json")
    for flags in (*limits, *reports):
        code, _, err = run(capsys, *where, *flags)
        assert code == 2
        assert "limit is" in err or "--report" in err
    assert run(capsys, mixed / "sub" / "wine.pt", "--report", tmp_path / "r.json")[0] == 2
    assert not (tmp_path / "models").exists()
