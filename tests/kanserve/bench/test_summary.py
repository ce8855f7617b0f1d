"""Tests of `bench/summary.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.command_line import document, kanserve

pytestmark = pytest.mark.slow


FEW = ("--batch", "1,4", "--threads", 1, "--rounds", 2)


TORCH = importlib.util.find_spec("torch") is not None


NAMES = ["kanserve", "mlp", *(["torch eager"] if TORCH else [])]


def results(told: Any, name: str) -> list[Any]:
    return [one for one in told["results"] if one["name"] == name]


def test_what_json_tells(repository: Path) -> None:
    told = document(kanserve("bench", "tiny", "--repository", repository, *FEW, "--json"))
    assert (told["model"], told["version"], told["family"]) == ("tiny", "1", "efficient-kan")
    assert (told["widths"], told["edges"], told["right"]) == ([3, 4, 2], 20, True)
    assert told["verified"].startswith("verified against our reading of the file")
    assert told["parameters"] == 20 * 9  # eight splines and a SiLU on every edge
    assert [one["name"] for one in told["entrants"]] == NAMES
    assert "reference rows of the export, evaluated in float64" in told["entrants"][0]["against"]
    assert {"date", "processor", "cores", "python", "numpy", "runtime", "load"} == set(told["machine"])
    assert told["machine"]["runtime"].startswith("onnxruntime ")
    assert [(one["name"], one["rows"]) for one in told["results"]] == [
        (name, rows) for rows in (1, 4) for name in NAMES
    ]
    for one in told["results"]:
        seconds = one["seconds"]
        assert 0 < seconds["lower"] <= seconds["median"] <= seconds["upper"]
        assert one["rows_per_second"] == pytest.approx(one["rows"] / seconds["median"])
        assert one["right"] is True
        assert 0 <= one["error"] < 1e-5
        assert one["ratio"] > 0
    for one in results(told, "kanserve"):
        assert one["ratio"] == 1
        assert one["edges_per_second"] == pytest.approx(20 * one["rows_per_second"])
    assert {one["edges_per_second"] for one in results(told, "mlp")} == {None}


def test_a_table_a_picture_and_characters(repository: Path, tmp_path: Path) -> None:
    for name in ("rates.svg", "rates.png"):
        done = kanserve("bench", "tiny", "--repository", repository, *FEW, "--plot", tmp_path / name)
        assert done.returncode == 0, done.stderr
    title = ElementTree.parse(tmp_path / "rates.svg").getroot().find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == "tiny version 1: efficient-kan, 3 → 4 → 2"
    assert (tmp_path / "rates.png").read_bytes()[1:4] == b"PNG"
    assert "[3, " in done.stdout  # the widths of the MLP
    assert "in turns, 2 rounds" in done.stdout
    assert "WRONG" not in done.stdout
    assert any(0x2800 < ord(character) <= 0x28FF for character in done.stdout)
