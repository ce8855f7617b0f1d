"""Tests of `bench/summary.py`."""

import importlib.util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.support.command_line import document, kanserve

FEW = ("--batch", "1,4", "--threads", 1, "--rounds", 2)
TORCH = importlib.util.find_spec("torch") is not None
NAMES = ["kanserve", "mlp", *(["torch eager"] if TORCH else [])]


def results(report: Any, name: str) -> list[Any]:
    return [item for item in report["results"] if item["name"] == name]


def test_the_document_and_the_picture(repository: Path, tmp_path: Path) -> None:
    plot = ("--plot", tmp_path / "rates.png")
    reported = document(kanserve("bench", "tiny", "--repository", repository, *FEW, *plot, "--json"))
    assert (tmp_path / "rates.png").read_bytes()[1:4] == b"PNG"
    assert (reported["model"], reported["version"], reported["family"]) == ("tiny", "1", "efficient-kan")
    assert (reported["widths"], reported["edges"], reported["right"]) == ([3, 4, 2], 20, True)
    assert reported["verified"].startswith("verified against kanserve's interpretation of the checkpoint")
    assert reported["parameters"] == 20 * 9  # eight splines and a SiLU on every edge
    assert [item["name"] for item in reported["entrants"]] == NAMES
    assert "reference rows of the export" in reported["entrants"][0]["against"]
    assert {"date", "processor", "cores", "python", "numpy", "runtime", "load"} == set(reported["machine"])
    assert reported["machine"]["runtime"].startswith("onnxruntime ")
    assert [(item["name"], item["rows"]) for item in reported["results"]] == [
        (name, rows) for rows in (1, 4) for name in NAMES
    ]
    for item in reported["results"]:
        seconds = item["seconds"]
        assert 0 < seconds["lower"] <= seconds["median"] <= seconds["upper"]
        assert item["rows_per_second"] == pytest.approx(item["rows"] / seconds["median"])
        assert item["right"] is True
        assert 0 <= item["error"] < 1e-5
        assert item["ratio"] > 0
    for item in results(reported, "kanserve"):
        assert item["ratio"] == 1
        assert item["edges_per_second"] == pytest.approx(20 * item["rows_per_second"])
    assert {item["edges_per_second"] for item in results(reported, "mlp")} == {None}


def test_a_table_a_picture_and_characters(repository: Path, tmp_path: Path) -> None:
    done = kanserve("bench", "tiny", "--repository", repository, *FEW, "--plot", tmp_path / "rates.svg")
    assert done.returncode == 0, done.stderr
    title = ElementTree.parse(tmp_path / "rates.svg").getroot().find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text == "tiny version 1: efficient-kan, 3 → 4 → 2"
    assert "[3, " in done.stdout  # the widths of the MLP
    assert "2 interleaved rounds" in done.stdout
    assert "WRONG" not in done.stdout
    assert any(0x2800 < ord(character) <= 0x28FF for character in done.stdout)
