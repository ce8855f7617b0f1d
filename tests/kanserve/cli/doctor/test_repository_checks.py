"""Tests of `cli/doctor/repository_checks.py`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kanserve.cli.doctor import repository_checks
from kanserve.cli.doctor.check_results import Level
from kanserve.config.settings import Settings
from kanserve.system import resources
from tests.kanserve.cli.doctor.conftest import FREE, check, told
from tests.support import toy_model


def plain(folder: Path) -> None:
    shutil.copytree(folder / "toy", folder / "plain")
    (folder / "plain" / "1" / "manifest.json").unlink()


def config(folder: Path) -> None:
    (folder / "toy" / "config.pbtxt").write_text("optimization { graph { level: 1 } }\n")


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        (lambda folder: shutil.rmtree(folder / "toy"), Level.PROBLEM, "has no valid model version"),
        (
            lambda folder: (folder / "toy" / "1" / "model.onnx").write_bytes(b"cut"),
            Level.PROBLEM,
            "toy version 1 is invalid: ",
        ),
        (
            lambda folder: (folder / "toy" / ".kanexport-host-1-abcd").mkdir(),
            Level.WARNING,
            "remains of an interrupted export: toy/.kanexport-host-1-abcd",
        ),
        (lambda folder: (folder / "toy" / "02").mkdir(), Level.WARNING, "toy version 02 is ignored: invalid version"),
        (plain, Level.WARNING, "plain version 1 has no manifest and is ignored"),
        (
            lambda folder: (folder / "toy" / "default").write_text("two\n"),
            Level.PROBLEM,
            "servers ignore the default version of toy: default has 'two\\n', expected one version number",
        ),
        (
            lambda folder: (folder / "toy" / "default").write_text("7\n"),
            Level.PROBLEM,
            "the file default of toy names version 7, which is missing",
        ),
        (config, Level.WARNING, "toy version 1: entries of config.pbtxt without effect: optimization"),
    ],
)
def test_repositories(tmp_path: Path, change: Callable[[Path], None], level: Level, text: str) -> None:
    toy_model.write(tmp_path)
    change(tmp_path)
    code, result = check(tmp_path, *FREE)
    assert code == (2 if level is Level.PROBLEM else 0)
    assert any(text in line for line in told(result, level)), result
    assert all(item["advice"] for item in result if item["level"] != Level.OK)


def test_memory_against_models_and_messages(models: Path) -> None:
    settings = Settings(repository=models, workers=2, max_inflight_bytes=256 * 2**20)
    size, messages = 100 * 2**20, 512 * 2**20
    needed = resources.FACTOR * size * 2 + messages
    assert repository_checks.free_memory(size, settings, needed).level is Level.OK
    short = repository_checks.free_memory(size, settings, needed - 1)
    assert (short.level, short.about) == (Level.WARNING, "memory")
    assert short.text == "models need up to 1,000 MiB, messages up to 512 MiB, but only 1,512 MiB are available"
    assert repository_checks.free_memory(size, settings, None).level is Level.OK
    text = "memory: models need up to 0 MiB, messages up to 256 MiB; "
    assert any(line.startswith(text) for line in told(check(models, *FREE)[1], Level.OK))
