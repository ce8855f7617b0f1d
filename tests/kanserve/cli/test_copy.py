"""`kanserve copy`: a copied version serves under its new number, and a manual copy gives an error."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from kanexport.shared import manifest
from tests.support.command_line import checkpoint, document, kanserve, wrong_refusals


@pytest.fixture
def models(repository: Path, tmp_path: Path) -> Path:
    shutil.copytree(repository, tmp_path / "models")
    return tmp_path / "models"


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_copy_is_a_version_of_its_own(models: Path) -> None:
    created = document(kanserve("copy", "tiny", "1", "2", "--repository", models, "--json"))
    files = manifest.load(models / "tiny/1").files
    assert created == {"model": "tiny", "version": "2", "from": "1", "files": len(files)}
    assert manifest.load(models / "tiny" / "2").version == 2
    assert listed(models / "tiny" / "1") == listed(models / "tiny" / "2")
    for entry in files:
        assert (models / "tiny" / "1" / entry.path).read_bytes() == (models / "tiny" / "2" / entry.path).read_bytes()
    states = document(kanserve("models", models, "--load", "--json"))["models"]
    assert [(entry["version"], entry["state"]) for entry in states] == [("1", "LOADS"), ("2", "LOADS")]
    assert listed(models / "tiny") == ["1", "2", "config.pbtxt"]  # the command leaves no other file
    shutil.copytree(models / "tiny" / "1", models / "tiny" / "3")
    assert "`kanserve copy tiny 1 3 --force`" in kanserve("models", models).stdout
    (models / "tiny" / "1").rename(models / "tiny" / "4")
    text = "the manifest has version 1, the folder 4; rename the folder to 1"
    assert text in kanserve("models", models).stdout


def test_what_is_not_copied(models: Path) -> None:
    (models / "tiny" / "3").mkdir()
    cases = {
        "copy tiny 1 1": "invalid target version '1', expected another number from 1",
        "copy tiny 1 02": "invalid target version '02'",
        "copy tiny 1 two": "invalid target version 'two'",
        "copy tiny 5 6": "unknown version '5' of tiny",
        "copy tinny 1 2": "did you mean 'tiny'?",
        "copy tiny 1 3": "3 exists\n",
    }
    assert wrong_refusals(cases, "--repository", models) == []
    (models / "tiny" / "1" / "model.onnx").write_bytes(b"cut")
    assert wrong_refusals({"copy tiny 1 2": "model.onnx has 3 bytes"}, "--repository", models) == []
    assert listed(models / "tiny") == ["1", "3", "config.pbtxt"]


def test_a_folder_that_is_the_model(models: Path) -> None:
    done = kanserve("copy", "tiny", "1", "2", "--repository", models / "tiny")
    assert done.returncode == 0, done.stderr
    assert manifest.load(models / "tiny" / "2").version == 2
    cases = {"copy tiny 1 2": "is itself a model version"}
    assert wrong_refusals(cases, "--repository", models / "tiny" / "1") == []


def test_a_copy_in_the_place_of_a_link(models: Path, tmp_path: Path) -> None:
    """The command replaces the link and does not write to its target."""
    (tmp_path / "elsewhere").mkdir()
    (models / "tiny" / "2").symlink_to(tmp_path / "elsewhere")
    assert kanserve("copy", "tiny", "1", "2", "--repository", models).returncode == 2
    assert kanserve("copy", "tiny", "1", "2", "--repository", models, "--force").returncode == 0
    assert not (models / "tiny" / "2").is_symlink()
    assert listed(tmp_path / "elsewhere") == []


def test_a_manifest_with_its_numbers_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "SMALL", 0)
    state = checkpoint(tmp_path / "tiny.safetensors", (20, 4, 2))
    document(kanserve("export", state, "--repository", tmp_path / "models", "--name", "tiny", "--json"))
    first, second = tmp_path / "models" / "tiny" / "1", tmp_path / "models" / "tiny" / "2"
    assert (first / manifest.NUMBERS_FILE).exists()
    assert kanserve("copy", "tiny", "1", "2", "--repository", tmp_path / "models").returncode == 0
    assert manifest.load(second) == dataclasses.replace(manifest.load(first), version=2)
    assert (first / manifest.NUMBERS_FILE).read_bytes() == (second / manifest.NUMBERS_FILE).read_bytes()
