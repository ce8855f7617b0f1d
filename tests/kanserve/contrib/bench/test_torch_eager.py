"""Tests of `bench/torch_eager.py`."""

import pytest

from tests.support.command_line import document, kanserve
from tests.support.golden_cases import cases
from tests.support.tiers import spread

# Why torch is left out; "" if it takes part.
GOLDEN = {
    "pykan-hello-adapted": "",  # knots of each input's own
    "chebykan-bare-layer": "layer 0 has edges other than B-splines",
    "pykan-mult-affine": "the model has more operations than its layers",
    "pykan-pruned-edges": "",
}


@spread("name", GOLDEN, 1)
def test_torch_takes_part_where_it_can_say_the_same(name: str) -> None:
    pytest.importorskip("torch")
    case = next(case for case in cases() if case.name == name)
    reported = document(kanserve("bench", case.path, "--batch", "4", "--threads", 1, "--rounds", 1, "--json"))
    left = {item["name"]: item["why"] for item in reported["left_out"]}
    assert reported["right"] is True
    right = [item["right"] for item in reported["results"] if item["name"] == "torch eager"]
    assert right == ([] if GOLDEN[name] else [True])
    assert GOLDEN[name] in left.get("torch eager", "")
