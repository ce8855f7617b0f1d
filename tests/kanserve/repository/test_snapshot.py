"""Tests of `repository/snapshot.py`."""

from pathlib import Path

from kanserve.repository import snapshot
from tests.support import toy_model


def test_looking_takes_a_small_part_of_the_time() -> None:
    assert snapshot.pause(2.0, 0.001) == 2.0
    assert snapshot.pause(2.0, 1.5) == 15.0
    assert snapshot.pause(0.0, 1.0) is None


def test_another_default_version_is_no_reason_to_read_versions_again(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    (tmp_path / "toy" / "config.pbtxt").write_text("max_batch_size: 8\n")
    scanner = snapshot.Scanner(tmp_path)
    before = scanner.scan()
    (tmp_path / "toy" / "default").write_text("1\n")
    after = scanner.scan()
    assert (before.defaults, list(after.defaults)) == ({}, ["toy"])
    assert after.prints["toy", 1].facts == before.prints["toy", 1].facts
