"""Inputs by pattern, and the folder of results with its records."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest

from kanserve.errors import BadRequest
from kanserve.scoring import files
from kanserve.scoring.files import Input, Journal
from tests.support.tiers import full

SUFFIXES = (".csv", ".parquet")
FINGERPRINT = {"model": {"name": "toy", "content": "1"}, "options": {"keep": []}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for name in ("b.csv", "a.parquet", "sub/c.csv", "sub/_hidden.csv", ".d.csv", "note.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(*patterns: object) -> list[str]:
    return [item.name for item in files.inputs(list(map(str, patterns)), SUFFIXES)]


def test_folders_patterns_and_paths_select_files(data: Path) -> None:
    assert names(data) == ["a.parquet", "b.csv", "sub/c.csv"]
    assert names(data / "*.csv", data / "b.csv") == ["b.csv"]
    assert names(data / "**" / "c*.csv") == ["sub/c.csv"]
    assert names(data / "note.txt") == ["note.txt"]  # a named file is taken; its form is checked later
    (only,) = files.inputs([str(data / "b.csv")], SUFFIXES)
    assert only.size == 5
    with only.opened() as file:
        assert file.read() == b"b.csv"


def test_a_pattern_without_a_file_and_two_files_of_one_name_are_refused(data: Path) -> None:
    for pattern in ("*.json", "missing.csv", "none/"):
        with pytest.raises(BadRequest, match="no file fits"):
            names(data / pattern)
    (data / "sub" / "b.csv").write_text("1")
    with pytest.raises(BadRequest, match=r"b\.csv and .*sub/b\.csv would have the same result b"):
        names(data / "b.csv", data / "sub" / "b.csv")
    assert names(data / "b.csv", data)[:2] == ["b.csv", "a.parquet"]


def test_a_result_appears_only_as_a_whole(tmp_path: Path) -> None:
    folder = files.output(str(tmp_path / "new" / "out"))
    with contextlib.suppress(KeyError), folder.opened("sub/a.csv") as file:
        file.write(b"half")
        raise KeyError
    assert folder.names() == []
    user, killed = f".kanserve-{'0' * 16}", f"_score/.kanserve-{'1' * 16}"
    for name in (user, killed, "_score/.kanserve-mine"):
        (tmp_path / "new" / "out" / name).write_text("a file of the user, or of a killed run")
    folder.clean()
    assert folder.names() == sorted([user, "_score/.kanserve-mine"])
    assert not (tmp_path / "new" / "out" / killed).exists()
    for name in folder.names():
        (tmp_path / "new" / "out" / name).unlink()
    with folder.opened("sub/a.csv") as file:
        file.write(b"whole")
    assert folder.names() == ["sub/a.csv"]
    assert (folder.read("sub/a.csv"), folder.read("b.csv")) == (b"whole", None)


def test_no_result_goes_through_a_link_or_into_a_special_file(tmp_path: Path) -> None:
    out, precious = tmp_path / "out", tmp_path / "precious"
    folder = files.output(str(out))
    precious.mkdir()
    (precious / "a.csv").write_text("precious")
    (out / "linked").symlink_to(precious)
    (out / "a.csv").symlink_to(precious / "a.csv")
    os.mkfifo(out / "b.csv")
    for name, kind in (("a.csv", "is a symbolic"), ("b.csv", "a FIFO"), ("linked/a.csv", "is a symbolic")):
        with pytest.raises(OSError, match=kind) as caught, folder.opened(name) as file:
            file.write(b"result")
        assert str(out) in caught.value.filename
        assert not name.startswith("linked") or folder.names() == ["a.csv", "b.csv", "linked"]
    shutil.rmtree(out / "_score")
    (out / "_score").symlink_to(precious)
    with pytest.raises(OSError, match="is a symbolic link"):
        Journal(folder, FINGERPRINT).begin(overwrite=True)
    assert {path.name: path.read_text() for path in precious.iterdir()} == {"a.csv": "precious"}


def test_results_stay_in_their_folder_and_apart_from_inputs(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"would be sub/\.\./b\.csv, outside of the output folder"):
        names(data / "s*" / ".." / "b.csv")
    (data / "out").mkdir()
    (data / "out" / "x.csv").write_text("1")
    (tmp_path / "link").symlink_to(data)
    for pattern, output in ((data, data), (data, data / "new"), (data / "*" / "x.csv", data / "out"), (data, "link/o")):
        with pytest.raises(BadRequest, match="overlap, so a run would read results"):
            files.inputs([str(pattern)], SUFFIXES, str(tmp_path / output))
    for pattern, output in ((data, data / "_out"), (data / "*.csv", data / "out"), (data, f"{data}-out")):
        assert files.inputs([str(pattern)], SUFFIXES, str(output))


def test_one_run_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    folder, other = files.output(str(tmp_path)), files.output(str(tmp_path))
    with folder.locked(), pytest.raises(BadRequest, match="another run writes"), other.locked():
        pass
    with other.locked():
        pass


def source(path: Path) -> Input:
    (found,) = files.inputs([str(path)], SUFFIXES)
    return found


def test_a_finished_file_is_known_until_its_input_changes(data: Path, tmp_path: Path) -> None:
    journal = Journal(files.output(str(tmp_path / "out")), FINGERPRINT)
    journal.begin(overwrite=False)
    assert journal.finished("b.csv", source(data / "b.csv")) is None
    result = tmp_path / "out" / "b.csv"
    result.write_text("result")
    journal.finish("b.csv", source(data / "b.csv"), {"rows": 3})
    journal.begin(overwrite=False)
    record = journal.finished("b.csv", source(data / "b.csv"))
    assert record is not None
    assert record["rows"] == 3
    for damage in (lambda: result.write_text("res"), result.unlink, lambda: result.symlink_to(data / "b.csv")):
        damage()
        assert journal.finished("b.csv", source(data / "b.csv")) is None
    result.unlink()
    result.write_text("result")
    assert journal.finished("b.csv", source(data / "b.csv")) == record
    os.utime(data / "b.csv", (1, 1))
    assert journal.finished("b.csv", source(data / "b.csv")) is None


def test_a_folder_with_something_else_is_refused(data: Path, tmp_path: Path) -> None:
    out = files.output(str(tmp_path / "out"))
    Journal(out, {**FINGERPRINT, "model": {}}).begin(overwrite=False)  # a run that failed before its first result
    journal = Journal(out, FINGERPRINT)
    journal.begin(overwrite=False)
    (tmp_path / "out" / "b.csv").write_text("result")
    journal.finish("b.csv", source(data / "b.csv"), {})
    other = Journal(out, {**FINGERPRINT, "options": {"keep": ["id"]}})
    with pytest.raises(BadRequest, match="is not empty: a run with another options wrote it"):
        other.begin(overwrite=False)
    other.begin(overwrite=True)
    assert other.finished("b.csv", source(data / "b.csv")) is None
    foreign = Journal(files.output(str(data)), FINGERPRINT)
    with pytest.raises(BadRequest, match=r"is not empty: it has 6 files, such as"):
        foreign.begin(overwrite=False)


def test_a_damaged_record_is_no_record(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    journal = Journal(files.output(str(out)), FINGERPRINT)
    journal.begin(overwrite=False)
    (out / "b.csv").write_text("result")
    journal.finish("b.csv", source(data / "b.csv"), {"rows": 3})
    written = (out / "_score" / "b.csv.json").read_text()
    for text in ("", "[1]", "{", "9" * 10, written.replace('"rows": 3', '"rows": "3"')):
        (out / "_score" / "b.csv.json").write_text(text)
        assert journal.finished("b.csv", source(data / "b.csv")) is None


def test_urls_of_unknown_stores_are_refused() -> None:
    for url in ("ftp://host/data/a.csv", "s3:////a.csv"):
        with pytest.raises(BadRequest, match="is not a URL of a store"):
            files.inputs([url], SUFFIXES)


@full("peer")
def test_a_store_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(OSError, match="error sending request") as caught:
        files.inputs(["http://127.0.0.1:9/none.csv"], SUFFIXES)
    assert caught.value.filename == "http://127.0.0.1:9/none.csv"
