"""Tests of `cli/inventory.py`."""

import shutil
from pathlib import Path

from kanexport.shared import manifest
from kanserve.cli import inventory
from kanserve.config.settings import Settings
from tests.support.command_line import document, kanserve
from tests.support.toy_model import edited, reference


def test_load_tries_the_graph_as_the_server_would(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "models")
    shutil.copytree(tmp_path / "models" / "tiny" / "1", tmp_path / "models" / "tiny" / "2")
    folder = tmp_path / "models" / "tiny" / "2"
    edited(version=2)(folder)
    reference(outputs=((1.0, 2.0),) * len(manifest.load(folder).reference.outputs))(folder)
    states = [entry.state for entry in inventory.of_folder(tmp_path / "models")]
    assert states == ["COMPLETE", "COMPLETE"]  # which promises nothing about the graph
    good, bad = document(kanserve("models", tmp_path / "models", "--load", "--json", "--allow-invalid"))["models"]
    assert (good["state"], good["checked"]) == ("LOADS", ["names", "files", "manifest", "graph", "reference rows"])
    assert (bad["state"], bad["checked"]) == ("INVALID", ["names", "files", "manifest"])
    assert "reference outputs differ by" in bad["reason"]
    assert "pass --load to check the graph too" in kanserve("models", tmp_path / "models").stdout
    assert "pass --load" not in kanserve("models", tmp_path / "models", "--load").stdout


def test_a_folder_that_is_one_model(repository: Path) -> None:
    (entry,) = inventory.of_folder(repository / "tiny" / "1")
    assert (entry.name, entry.version, entry.state) == ("tiny", "1", "COMPLETE")


def test_files_of_a_folder_are_read_up_to_the_servers_limit() -> None:
    assert Settings.model_fields["max_file_bytes"].default == inventory.FILE_BYTES
