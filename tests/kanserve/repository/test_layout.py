"""Repository layouts, valid and invalid."""

import dataclasses
import hashlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from kanexport.shared import manifest as manifests
from kanexport.shared.manifest import FileEntry
from kanserve.errors import ConfigError, LoadError, LoadReason
from kanserve.repository import layout
from tests.support import toy_model
from tests.support.bad_requests import not_loaded


def only(root: Path, *, plain: bool = False) -> layout.Bundle:
    (candidate,) = layout.scan(root, plain_onnx=plain)
    return layout.load(candidate, 2**30)


def test_what_is_no_version_is_ignored(tmp_path: Path) -> None:
    toy_model.write(tmp_path, "b", 2)
    toy_model.write(tmp_path, "b", 10)
    toy_model.write(tmp_path, "a.x-1", 1)
    for name in ("b/.3.tmp", "b/0", "b/-1", "b/01", "b/latest", ".hidden/1", "-a/1", "b/7", "c d/1"):
        (tmp_path / name).mkdir(parents=True)
        if name != "b/7":  # 7 has no manifest: it is not there yet
            (tmp_path / name / manifests.FILE_NAME).write_text("{}")
    (tmp_path / "b" / "config.pbtxt").write_text("")
    (tmp_path / "README").write_text("")
    result = [(c.name, c.version) for c in layout.scan(tmp_path, plain_onnx=True)]
    assert result == [("a.x-1", 1), ("b", 2), ("b", 10)]


@pytest.mark.parametrize("steps", ["", "1"])
def test_the_folder_may_be_the_model(tmp_path: Path, steps: str) -> None:
    toy_model.write(tmp_path, "digits", 1, directory=tmp_path / "models" / steps)
    bundle = only(tmp_path / "models")
    assert (bundle.name, bundle.version) == ("digits", 1)
    assert set(bundle.files) == {"model.onnx", "edges_l0.onnx", "edges_l1.onnx"}


def test_a_folder_that_is_the_model_and_does_not_say_which(tmp_path: Path) -> None:
    toy_model.write(tmp_path, "digits", 3, directory=tmp_path / "models")
    (candidate,) = layout.scan(tmp_path / "models", plain_onnx=False)
    assert layout.heading(candidate) == ("digits", 3)
    toy_model.edit(tmp_path / "models", name="../digits")
    assert layout.heading(candidate) == ("", 0)
    (tmp_path / "models" / manifests.FILE_NAME).unlink()
    assert layout.heading(candidate) == ("", 0)


def test_the_only_model_may_have_another_name(tmp_path: Path) -> None:
    """Also a version whose manifest names nothing, so that its load reports the fault under the same name."""
    for version in (1, 2):
        toy_model.write(tmp_path, "digits", version)
    (tmp_path / "digits" / "config.pbtxt").write_text('name: "digits"\n')
    (tmp_path / "digits" / "2" / manifests.FILE_NAME).write_text("{")
    for root in (tmp_path, tmp_path / "digits"):
        found = layout.served_as(layout.scan(root, plain_onnx=False), "iris")
        assert [(candidate.name, candidate.version) for candidate in found] == [("iris", 1), ("iris", 2)]
        bundle = layout.load(found[0], 2**30)
        assert bundle.manifest is not None
        assert (bundle.name, bundle.manifest.name, bundle.config.name) == ("iris", "iris", "iris")
    toy_model.write(tmp_path, "other")
    with pytest.raises(
        ConfigError, match="has 2 models \\(digits, other\\), expected one to serve as 'iris'"
    ) as caught:
        layout.served_as(layout.scan(tmp_path, plain_onnx=False), "iris")
    assert caught.value.code == "repository-not-one-model"


def test_a_mounted_folder_is_the_one_that_its_link_names(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap; a link to elsewhere is none of these."""
    toy_model.write(tmp_path / "models" / "..of_today", "digits", 1)
    toy_model.write(tmp_path / "elsewhere", "other", 1)
    link = tmp_path / "models" / "..data"
    link.symlink_to("..of_today")
    assert [result.name for result in layout.scan(tmp_path / "models", plain_onnx=False)] == ["digits"]
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    assert layout.scan(tmp_path / "models", plain_onnx=False) == []


def test_a_file_is_read_in_parts_and_up_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_model.write(tmp_path)
    whole = only(tmp_path).files
    read = os.read
    monkeypatch.setattr(os, "read", lambda descriptor, size: read(descriptor, min(size, 100)))
    assert only(tmp_path).files == whole
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    with pytest.raises(LoadError, match="bytes, expected at most 10"):
        layout.load(candidate, 10)


@pytest.mark.parametrize(
    ("part", "reason", "words"),
    [
        (lambda data: data + b"x", LoadReason.INTEGRITY, "grew while it was read"),
        (lambda data: b"", LoadReason.INTEGRITY, "shrank while it was read"),
        (None, LoadReason.UNREADABLE, "model.onnx cannot be read: Input/output error"),
    ],
)
def test_a_file_that_changes_or_fails_while_it_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: Callable[[bytes], bytes] | None,
    reason: LoadReason,
    words: str,
) -> None:
    toy_model.write(tmp_path)
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    read, opened = os.read, os.open

    def fails(name: str, *rest: object, **more: object) -> int:
        if name == manifests.MODEL_FILE:
            raise OSError(5, "Input/output error")
        return opened(name, *rest, **more)  # type: ignore[arg-type]  # as it was called

    def changed(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        return (
            part(data) if part and os.readlink(f"/proc/self/fd/{descriptor}").endswith(manifests.MODEL_FILE) else data
        )

    monkeypatch.setattr(os, *(("read", changed) if part else ("open", fails)))
    with not_loaded(reason, words):
        layout.load(candidate, 2**30)


def test_numbers_of_a_manifest_in_a_file_of_their_own(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path)
    whole = dataclasses.replace(
        manifests.load(directory),
        reference=manifests.Reference(inputs=((0.123456789,) * 60_000,), outputs=(), tolerance=1.0),
    )
    bare, numbers = manifests.parts(whole)
    assert numbers is not None
    entry = FileEntry(path=manifests.NUMBERS_FILE, size=len(numbers), sha256=hashlib.sha256(numbers).hexdigest())
    toy_model.save(directory, dataclasses.replace(bare, files=(*bare.files, entry)))
    with pytest.raises(LoadError, match=r"numbers\.bin is missing"):
        only(tmp_path)
    path = directory / manifests.NUMBERS_FILE
    path.write_bytes(numbers)
    assert only(tmp_path).manifest == dataclasses.replace(whole, files=(*bare.files, entry))
    path.write_bytes(numbers[:-8] + bytes(8))
    with pytest.raises(LoadError, match=r"numbers\.bin has sha256"):
        only(tmp_path)
    toy_model.save(directory, dataclasses.replace(toy_model.manifest("toy"), files=bare.files))
    with pytest.raises(LoadError, match=r"numbers\.bin is not listed"):
        only(tmp_path)
    path.touch()
    os.truncate(path, 2**36)
    with pytest.raises(LoadError, match="expected at most 67108864"):
        only(tmp_path)


def test_plain_files_are_served_only_on_request(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path)
    (directory / manifests.FILE_NAME).unlink()
    assert layout.scan(tmp_path, plain_onnx=False) == []
    bundle = only(tmp_path, plain=True)
    assert (bundle.name, bundle.manifest, set(bundle.files)) == ("toy", None, {"model.onnx"})


def test_the_repository_may_be_a_link_and_has_to_be_there(tmp_path: Path) -> None:
    toy_model.write(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert only(tmp_path / "link").name == "toy"
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


def hard_link(directory: Path) -> None:
    os.link(directory / "model.onnx", directory.parent / "another")


def swap(directory: Path, make: Callable[[Path], object]) -> None:
    (directory / "model.onnx").unlink()
    make(directory / "model.onnx")


def bound(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as item:
        swap(directory, lambda path: item.bind(os.path.relpath(path)))


def listing(path: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory.parent / "secret").write_bytes(b"s")
        files = manifests.load(directory).files
        toy_model.edit(directory, files=(*files, FileEntry(path=path, size=1, sha256="0" * 64)))

    return change


DAMAGED: dict[str, Callable[[Path], object]] = {
    "edges_l0.onnx has sha256": flip,
    "model.onnx has 50 bytes, the manifest says": lambda d: os.truncate(d / "model.onnx", 50),
    "edges_l1.onnx is missing": lambda d: (d / "edges_l1.onnx").unlink(),
    "numbers.bin is not listed": lambda d: (d / manifests.NUMBERS_FILE).touch(),
    "model.onnx is a symbolic link": link,
    "model.onnx is a hard link, a file with 2 names": hard_link,
    "manifest.json is a hard": lambda d: os.link(d / manifests.FILE_NAME, d.parent / "m"),
    "model.onnx is not a regular file but a FIFO": lambda d: swap(d, os.mkfifo),
    "model.onnx is not a regular file but a socket": bound,
    "model.onnx is not a regular file but a directory": lambda d: swap(d, Path.mkdir),
}
MANIFEST: dict[str, Callable[[Path], object]] = {
    "lists '../secret', expected a plain file name": listing("../secret"),
    "lists '/etc/passwd', expected a plain file name": listing("/etc/passwd"),
    "lists '', expected a plain file name": listing(""),
    "manifest is not valid JSON": lambda d: os.truncate(d / manifests.FILE_NAME, 100),
    "the manifest is a list, expected an object": lambda d: (d / manifests.FILE_NAME).write_text("[1]"),
    "has the name 'other', the folder 'toy'": lambda d: toy_model.edit(d, name="other"),
    "has version 3, the folder 1": lambda d: toy_model.edit(d, version=3),
    "is not listed": lambda d: toy_model.edit(d, files=()),
}


@pytest.mark.parametrize("text", [*DAMAGED, *MANIFEST])
def test_damage_is_found_and_named(tmp_path: Path, text: str) -> None:
    (DAMAGED | MANIFEST)[text](toy_model.write(tmp_path))
    with not_loaded(LoadReason.INTEGRITY if text in DAMAGED else LoadReason.MANIFEST, text) as caught:
        only(tmp_path)
    assert caught.value.code != "load-error"
    assert caught.value.hint
    assert str(tmp_path) not in f"{caught.value} {caught.value.hint}"


def test_files_that_the_manifest_does_not_list_are_not_opened(tmp_path: Path) -> None:
    """Tools that copy models leave partial files, links into caches, and files about the model."""
    directory = toy_model.write(tmp_path)
    before = only(tmp_path)
    (directory / "model.onnx.1a2b3c4d.partial").write_bytes(b"half")
    (directory / ".cache").mkdir()
    (directory / "README.md").symlink_to("/etc/passwd")
    os.mkfifo(directory / "weights.bin")
    unreadable = directory / "more.onnx"
    unreadable.write_bytes(b"a graph that no manifest knows")
    unreadable.chmod(0)
    after = only(tmp_path)
    names = (".cache", "README.md", "model.onnx.1a2b3c4d.partial", "more.onnx", "weights.bin")
    assert after == dataclasses.replace(before, ignored=names)


def test_an_empty_config_is_one_that_is_being_copied(tmp_path: Path) -> None:
    """Its version policy is then unknown, so no version loads, and no served version is excluded."""
    toy_model.write(tmp_path, version=1)
    toy_model.write(tmp_path, version=2)
    config = tmp_path / "toy" / "config.pbtxt"
    config.write_text("version_policy { specific { versions: [1] } }")
    candidates = layout.scan(tmp_path, plain_onnx=False)
    assert [candidate.version for candidate in layout.left_out(candidates)] == [2]
    os.truncate(config, 0)
    assert layout.left_out(candidates) == {}
    for candidate in candidates:
        with not_loaded(LoadReason.CONFIG, "config.pbtxt is empty"):
            layout.load(candidate, 2**30)


def test_a_linked_version_is_not_followed(tmp_path: Path) -> None:
    directory = toy_model.write(tmp_path)
    (candidate,) = layout.scan(tmp_path, plain_onnx=False)
    directory.rename(tmp_path / "moved")
    directory.symlink_to(tmp_path / "moved")
    assert layout.scan(tmp_path, plain_onnx=False) == []
    with pytest.raises(LoadError, match="cannot be read"):  # swapped after the scan
        layout.load(candidate, 2**30)


def test_hard_links_can_be_allowed(tmp_path: Path) -> None:
    hard_link(toy_model.write(tmp_path))
    (candidate,) = layout.scan(tmp_path, plain_onnx=False, hard_links=True)
    assert layout.load(candidate, 2**30).name == "toy"


@pytest.mark.parametrize("steps", ["", "1"])
def test_a_pipe_where_the_only_models_manifest_should_be(tmp_path: Path, steps: str) -> None:
    """It is a version that cannot be loaded, and neither waited for nor an error of the whole repository."""
    directory = toy_model.write(tmp_path, directory=tmp_path / "models" / steps)
    (directory / manifests.FILE_NAME).unlink()
    os.mkfifo(directory / manifests.FILE_NAME)
    (candidate,) = layout.scan(tmp_path / "models", plain_onnx=False)
    assert (candidate.name, candidate.version) == ("models", 1)
    with pytest.raises(LoadError, match=r"manifest\.json is not a regular file but a FIFO"):
        layout.load(candidate, 2**30)


def test_what_is_no_file_is_not_even_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a device can do something, and a pipe has a writer who would notice."""
    directory = toy_model.write(tmp_path)
    (directory / "model.onnx").unlink()
    try:
        os.mknod(directory / "model.onnx", 0o600 | stat.S_IFCHR, os.makedev(1, 7))  # /dev/full
    except PermissionError:
        os.mkfifo(directory / "model.onnx")
    opened: list[object] = []
    read = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest, **more: opened.append(path) or read(path, *rest, **more))
    with pytest.raises(LoadError, match="is not a regular file"):
        only(tmp_path)
    assert manifests.FILE_NAME in opened
    assert "model.onnx" not in opened
