"""Atomic publish: config and version appear together or not at all if an export fails or is killed."""

import contextlib
import glob
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from kanexport.errors import RepositoryError
from kanexport.shared import manifest as manifests
from kanexport.shared import temp_dirs
from kanserve.errors import LoadError
from kanserve.repository import layout
from kanserve.repository.snapshot import remove_stale_exports
from kanserve.repository.validation import check_config
from tests.support import forked_process
from tests.support.failures import CASES, FAST, NARROW, WIDE, Case, agree, hidden, packed, state
from tests.support.server_process import serving
from tests.support.tiers import full, spread
from tests.support.wait import until

HAMMER = """
import sys, pathlib
from tests.support import forked_process
from tests.support.failures import packed
print("ready", flush=True)
while True:
    for version in (1, 2):
        packed(pathlib.Path(sys.argv[1]), version, int(sys.argv[2]), force=True)
"""
# What a working export has in its hidden folders, step by step.
STEPS = (f"{temp_dirs.HIDDEN}*", f"{temp_dirs.HIDDEN}*/**/model.onnx", f"{temp_dirs.HIDDEN}*/**/manifest.json")


@spread("case", CASES, 2, ids=lambda case: f"{case.batch}-{case.exchanges}-{case.error.__name__}")
def test_whichever_call_fails_the_old_or_the_new_is_there(case: Case) -> None:
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        calls = (case.run(Path(folder, "models"), n) for n in itertools.count(1))
        failed = list(itertools.takewhile(bool, calls))
    assert len(failed) > 40
    assert {"open", "mkdir", "fsync", "exchange"} <= set(failed)


@full("load")
def test_concurrent_forced_exports_never_disagree(tmp_path: Path) -> None:
    """Two kinds of one model, again and again: what is there is always wholly one or the other."""
    packed(tmp_path)
    enough, wrong, written = threading.Event(), [], {WIDE: 0, NARROW: 0}

    def again(batch: int) -> None:
        while not enough.is_set():
            try:
                packed(tmp_path, 1, batch, force=True)
                written[batch] += 1
            except RepositoryError as error:
                wrong.append(str(error))

    threads = [threading.Thread(target=again, args=(batch,)) for batch in (WIDE, NARROW)]
    for thread in threads:
        thread.start()
    looks = 0
    while (looks <= 50 or min(written.values()) < 10) and not wrong:
        looks += _consistent(tmp_path)
    enough.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert agree(tmp_path) in ({1: WIDE}, {1: NARROW})
    assert hidden(tmp_path) == []


def _consistent(repository: Path) -> bool:
    """Read as a server does, through one open folder: config and version of one moment agree."""
    home = os.open(repository / "toy", os.O_RDONLY | os.O_DIRECTORY)
    try:
        parts = []
        for name in ("config.pbtxt", "1/manifest.json"):
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=home), "rb") as file:
                parts.append(file.read())
    except FileNotFoundError:
        return False  # that folder is being removed, and another has its name
    finally:
        os.close(home)
    manifest = manifests.loads(parts[1])
    assert f"max_batch_size: {manifest.max_batch_size}\n".encode() in parts[0]
    return True


def _killed_at(repository: Path, step: str) -> None:
    """Two exports that disagree, again and again, killed when one of them has come to a step."""
    with contextlib.ExitStack() as stack:
        for batch in (WIDE, NARROW):
            command = [sys.executable, "-c", HAMMER, str(repository), str(batch)]
            child = stack.enter_context(forked_process.popen(command, stdout=subprocess.PIPE))
            stack.callback(child.kill)
            assert child.stdout.readline() == b"ready\n"
        until(lambda: glob.glob(f"{repository}/**/{step}", recursive=True, include_hidden=True))


@full("rare")
def test_killed_at_any_moment_the_next_export_and_the_server_see_whole_versions(tmp_path: Path) -> None:
    packed(tmp_path)
    packed(tmp_path, 2)
    left = 0
    for kill, step in enumerate(itertools.cycle(STEPS)):
        if left and kill >= len(STEPS):
            break
        _killed_at(tmp_path, step)
        assert set(agree(tmp_path)) == {1, 2}
        left += len(hidden(tmp_path))
    packed(tmp_path, 3, agree(tmp_path)[1], force=True)
    assert hidden(tmp_path) == []
    for candidate in layout.scan(tmp_path, plain_onnx=False):
        bundle = layout.load(candidate, 2**20)
        assert bundle.manifest is not None
        try:
            check_config(bundle.config, "toy", bundle.manifest.inputs, bundle.manifest.outputs, batched=True)
        except LoadError as error:
            pytest.fail(str(error))


def test_what_else_is_in_a_models_folder_stays(tmp_path: Path) -> None:
    """Also if the whole folder is replaced because the config changes."""
    packed(tmp_path)
    packed(tmp_path, 2)
    (tmp_path / "toy" / "labels.txt").write_text("a\n")
    (tmp_path / "toy" / "more" / "deep").mkdir(parents=True)
    (tmp_path / "toy" / "link").symlink_to("labels.txt")
    before = {name: data for name, data in state(tmp_path / "toy").items() if not name.startswith(("1/", "config"))}
    packed(tmp_path, 1, NARROW, force=True)
    now = state(tmp_path / "toy")
    assert {name: now[name] for name in before} == before
    assert (tmp_path / "toy" / "link").is_symlink()
    assert (tmp_path / "toy" / "more" / "deep").is_dir()
    assert agree(tmp_path) == {1: NARROW, 2: WIDE}


def test_a_server_sweeps_what_nobody_works_on(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    host = temp_dirs.owner().rpartition("-")[0]
    packed(tmp_path)
    name = f"{temp_dirs.HIDDEN}{host}-{gone.pid}"
    dead = [tmp_path / f"{name}-a", tmp_path / "toy" / f"{name}-b"]
    for path in dead:
        (path / "1").mkdir(parents=True)
    alive = tmp_path / f"{temp_dirs.HIDDEN}{host}-{os.getppid()}-c"
    alive.mkdir()
    with serving(tmp_path) as server:
        assert [line["left"] for line in server.lines() if line["event"] == "stale_export_removed"] == [
            path.name for path in dead
        ]
    assert hidden(tmp_path) == [alive.name]
    assert remove_stale_exports(tmp_path / "nowhere") == []


def test_whichever_descriptor_does_not_close_what_is_said_is_so(tmp_path: Path) -> None:
    """If an export reports failure, the old version is in place; if the new version is in place, it reports success."""
    close, n = os.close, 0
    while True:
        packed(tmp_path, 1, force=True)
        before, n, calls, refused = state(tmp_path), n + 1, 0, False

        def failing(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            close(descriptor)
            if calls == n:  # noqa: B023  # of this turn
                raise OSError(5, "Input/output error")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "close", failing)
            try:
                packed(tmp_path, 1, NARROW, force=True)
            except RepositoryError:
                refused = True
        if refused:
            assert state(tmp_path) == before
        else:
            assert agree(tmp_path) == {1: NARROW}
        if calls < n:
            break
    assert n > 5
