"""Tests of `bench/torch_eager.py`."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from tests.support.command_line import document, kanserve
from tests.support.golden_cases import cases

FEW = ("--batch", "1,4", "--threads", 1, "--rounds", 2)


TORCH = importlib.util.find_spec("torch") is not None


def results(report: Any, name: str) -> list[Any]:
    return [item for item in report["results"] if item["name"] == name]


GOLDEN = {
    "pykan-hello-adapted": "",  # knots of each input's own
    "pykan-pruned-edges": "",
    "chebykan-bare-layer": "layer 0 has edges other than B-splines",
    "pykan-mult-affine": "the model has more operations than its layers",
}


@pytest.mark.skipif(not TORCH, reason="torch is not installed")
@pytest.mark.parametrize("name", GOLDEN)
def test_torch_takes_part_where_it_can_say_the_same(name: str) -> None:
    case = next(case for case in cases() if case.name == name)
    reported = document(kanserve("bench", case.path, *FEW, "--json"))
    left = {item["name"]: item["why"] for item in reported["left_out"]}
    assert reported["right"] is True
    assert [item["right"] for item in results(reported, "torch eager")] == ([] if GOLDEN[name] else [True, True])
    assert GOLDEN[name] in left.get("torch eager", "")
