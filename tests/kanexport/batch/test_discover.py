"""Tests of `batch/discover.py`."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kanexport.batch import discover
from kanexport.batch.discover import Item
from kanexport.bundle import repository
from kanexport.errors import CheckpointError
from kanexport.formats import checkpoint

ZIP = b"PK\x03\x04" + bytes(22)


def torch_head(name: bytes = b"archive/data.pkl") -> bytes:
    return ZIP + len(name).to_bytes(2, "little") + b"\0\0" + name


def write(root: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def places(root: Path, repository: Path | None = None) -> list[str]:
    return [item.place for item in discover.find(root, repository or root / "models")]


def test_formats_are_found_by_content_and_names_by_habit(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(4)
    write(
        tmp_path,
        **{
            "deep/er/torch_without_a_suffix": torch_head(),
            "saved.bin": torch_head(),
            "saved.zip": torch_head(b'metadata.json{"keras_version"'),
            "saved.pkl": b"\x80\x02ccollections\nOrderedDict\nctorch._utils\n",
            "old.model": checkpoint.LEGACY_MAGIC,
            "named_only.pth": b"an error page",
            "named_only.PT": b"",
            "tensors": tensors,
            # and what is not
            "scaler.pkl": b"\x80\x04\x95csklearn",
            "table.xlsx": torch_head(b"xl/workbook.xml"),
            "notes.txt": b"text",
            "weights.onnx": bytes(100),
            "short": b"PK",
            "blob": len(header).to_bytes(8, "little") + b"{" + bytes(300),
            "app_config.yml": b"port: 80",
        },
    )
    found = ["deep/er/torch_without_a_suffix", "named_only.PT", "named_only.pth", "old.model", "saved.bin", "saved.pkl"]
    assert places(tmp_path) == [*found, "saved.zip", "tensors"]


def test_a_pykan_checkpoint_is_one_and_its_training_data_is_not_opened(tmp_path: Path, pykan: Any) -> None:
    prefix = pykan([2, 1]).write(tmp_path)
    shutil.copy(f"{prefix}_state", tmp_path / "bare_state")
    write(tmp_path, toy_cache_data=torch_head(), **{"lost_config.yml": b"base_fun_name: silu\n"})
    os.mkfifo(tmp_path / "pipe.pt")
    assert places(tmp_path) == ["bare_state", "lost_config.yml", "toy"]


def test_hidden_linked_and_published_files_are_left_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    root = tmp_path / "root"
    places_ = ("a.pt", ".hidden.pt", ".git/b.pt", "models/m/1/c.pt", "sub/models/d.pt")
    write(root, **dict.fromkeys(places_, torch_head()))
    write(outside, **{"e.pt": torch_head()})
    (root / "link.pt").symlink_to(outside / "e.pt")
    (root / "linked").symlink_to(outside)
    (root / "round").symlink_to(root)
    assert places(root) == ["a.pt", "sub/models/d.pt"]
    assert places(root, tmp_path / "elsewhere") == ["a.pt", "models/m/1/c.pt", "sub/models/d.pt"]
    (tmp_path / "repository").symlink_to(root / "models")
    assert places(root, tmp_path / "repository") == ["a.pt", "sub/models/d.pt"]


def test_nothing_to_export_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, **{"notes.txt": b"", "a.pt": b"", "b.pt": b""})
    for path, text in [(tmp_path / "no", "is not a folder"), (tmp_path / "a.pt", "is not a folder")]:
        with pytest.raises(CheckpointError, match=text):
            discover.find(path, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="found no checkpoint among"):
        discover.find(tmp_path / "empty", tmp_path)
    monkeypatch.setattr(discover, "ITEM_LIMIT", 1)
    with pytest.raises(CheckpointError, match="has 2 checkpoints, expected at most 1"):
        discover.find(tmp_path, tmp_path / "models")
    monkeypatch.setattr(discover, "ENTRY_LIMIT", 2)
    with pytest.raises(CheckpointError, match="more than 2 files"):
        discover.find(tmp_path, tmp_path / "models")


def named(*given: str, prefix: str = "") -> list[str]:
    return discover.names([Item(Path(place), place) for place in given], prefix)


def test_names_come_from_places() -> None:
    assert named("model/0.5", "runs/best.pt", "x_state") == ["model-0.5", "runs-best", "x"]
    assert named("a.pt", "a.safetensors", "b.pt", prefix="wine") == ["wine-a-pt", "wine-a-safetensors", "wine-b"]
    assert named("a.pt.pt", "b.PTH/c") == ["a-pt", "b.PTH-c"]  # commands take a name with this suffix for a file
    assert named("_odd name (1).pth", "ü.pt") == ["odd-name-1-", "model"]
    assert [name[:6] for name in named("ä.pt", "ö.pt")] == ["model-", "model-"]
    first, second = named("a/b.pt", "a-b.pt")
    assert first != second
    assert {first[:4], second[:4]} == {"a-b-"}
    assert named("a/b.pt", "a-b.pt", "c.pt")[:2] == [first, second]  # whatever else there is
    for name in (first, second, *named("a" * 150, "ü" * 150, "../.a", "a" * 149)):
        repository.check_target(Path("/nowhere"), name, 1, force=True)
