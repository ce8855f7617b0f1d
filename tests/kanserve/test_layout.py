"""Repositories as they should be, and as they should not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kanexport import manifest as contract
from kanexport.manifest import FileEntry
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.repository import layout
from tests.kanserve import toy


def only(root: Path, *, plain: bool = False) -> layout.Bundle:
    (candidate,) = layout.scan(root, plain_onnx=plain)
    return layout.load(candidate, 2**30)


def test_what_is_no_version_is_ignored(tmp_path: Path) -> None:
    toy.write(tmp_path, "b", 2)
    toy.write(tmp_path, "b", 10)
    toy.write(tmp_path, "a.x-1", 1)
    for name in ("b/.3.tmp", "b/0", "b/-1", "b/01", "b/latest", ".hidden/1", "-a/1", "b/7", "c d/1"):
        (tmp_path / name).mkdir(parents=True)
        if name != "b/7":  # 7 has no manifest: it is not there yet
            (tmp_path / name / contract.FILE_NAME).write_text("{}")
    (tmp_path / "b" / "config.pbtxt").write_text("")
    (tmp_path / "README").write_text("")
    found = [(c.name, c.version) for c in layout.scan(tmp_path, plain_onnx=True)]
    assert found == [("a.x-1", 1), ("b", 2), ("b", 10)]


@pytest.mark.parametrize("steps", ["", "1"])
def test_the_folder_may_be_the_model(tmp_path: Path, steps: str) -> None:
    toy.write(tmp_path, "digits", 1, directory=tmp_path / "models" / steps)
    bundle = only(tmp_path / "models")
    assert (bundle.name, bundle.version) == ("digits", 1)
    assert set(bundle.files) == {"model.onnx", "edges_l0.onnx", "edges_l1.onnx"}


def test_a_link_to_the_repository_is_followed(tmp_path: Path) -> None:
    toy.write(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert only(tmp_path / "link").name == "toy"


def test_plain_files_are_served_only_on_request(tmp_path: Path) -> None:
    directory = toy.write(tmp_path)
    (directory / contract.FILE_NAME).unlink()
    assert layout.scan(tmp_path, plain_onnx=False) == []
    bundle = only(tmp_path, plain=True)
    assert (bundle.name, bundle.manifest, set(bundle.files)) == ("toy", None, {"model.onnx"})


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        layout.scan(tmp_path / "nowhere", plain_onnx=False)


def flip(directory: Path) -> None:
    path = directory / "edges_l0.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def link(directory: Path) -> None:
    path = directory / "model.onnx"
    path.rename(directory.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def pipe(directory: Path) -> None:
    (directory / "model.onnx").unlink()
    os.mkfifo(directory / "model.onnx")


def listing(path: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory.parent / "secret").write_bytes(b"s")
        files = contract.load(directory).files
        toy.edit(directory, files=(*files, FileEntry(path=path, size=1, sha256="0" * 64)))

    return change


CASES: list[tuple[str, Callable[[Path], object], LoadReason, str]] = [
    ("bit flip", flip, LoadReason.INTEGRITY, "edges_l0.onnx has sha256"),
    (
        "truncated",
        lambda d: os.truncate(d / "model.onnx", 50),
        LoadReason.INTEGRITY,
        "model.onnx has 50 bytes, the manifest says",
    ),
    ("missing", lambda d: (d / "edges_l1.onnx").unlink(), LoadReason.INTEGRITY, "edges_l1.onnx is missing"),
    ("unlisted", lambda d: (d / "more.bin").touch(), LoadReason.INTEGRITY, "more.bin is not listed"),
    ("link", link, LoadReason.UNREADABLE, "model.onnx: "),
    ("pipe", pipe, LoadReason.INTEGRITY, "model.onnx is not a regular file"),
    ("dots", listing("../secret"), LoadReason.MANIFEST, "'../secret' is not a plain file name"),
    ("absolute", listing("/etc/passwd"), LoadReason.MANIFEST, "is not a plain file name"),
    ("empty name", listing(""), LoadReason.MANIFEST, "is not a plain file name"),
    (
        "half a manifest",
        lambda d: os.truncate(d / contract.FILE_NAME, 100),
        LoadReason.MANIFEST,
        "manifest is not JSON",
    ),
    (
        "no manifest at all",
        lambda d: (d / contract.FILE_NAME).write_text("[1]"),
        LoadReason.MANIFEST,
        "not a JSON object",
    ),
    ("other name", lambda d: toy.edit(d, name="other"), LoadReason.MANIFEST, "says 'other', the folder 'toy'"),
    ("other version", lambda d: toy.edit(d, version=3), LoadReason.MANIFEST, "says version 3, the folder 1"),
    ("no graph", lambda d: toy.edit(d, files=()), LoadReason.INTEGRITY, "is not listed"),
]


@pytest.mark.parametrize(("damage", "reason", "text"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_damage_is_found_and_named(
    tmp_path: Path, damage: Callable[[Path], object], reason: LoadReason, text: str
) -> None:
    damage(toy.write(tmp_path))
    with pytest.raises(LoadError) as caught:
        only(tmp_path)
    assert caught.value.reason is reason
    assert text in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_linked_version_is_not_followed(tmp_path: Path) -> None:
    toy.write(tmp_path / "outside")
    (tmp_path / "repository" / "toy").mkdir(parents=True)
    (tmp_path / "repository" / "toy" / "1").symlink_to(tmp_path / "outside" / "toy" / "1")
    assert layout.scan(tmp_path / "repository", plain_onnx=False) == []


def test_a_version_swapped_for_a_link_after_the_scan(tmp_path: Path) -> None:
    directory = toy.write(tmp_path)
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    directory.rename(tmp_path / "moved")
    directory.symlink_to(tmp_path / "moved")
    with pytest.raises(LoadError, match="cannot be read"):
        layout.load(candidate, 2**30)
