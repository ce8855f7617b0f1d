"""Comparison of certificates with solvers: the problem that they get, and contradictions."""

from typing import Any

import numpy as np
import pytest

from benchmarks import certificates_by_solvers as script
from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.pipeline import Request, network
from kanexport.verify import float64_reference
from tests.support.golden_cases import cases

NAME = "pykan-hello-pruned"


@pytest.fixture(scope="module")
def task() -> dict[str, Any]:
    return script.problem(NAME, 0.5)


def by_cells(task: dict[str, Any], x: np.ndarray) -> tuple[float, float]:
    """The first output of one row from the powers of its cells, and from polygons."""
    nodes = polygon = list(x)
    for layer in task["layers"]:
        sums, flat = np.array(layer["bias"]), np.array(layer["bias"])
        for i, cells in enumerate(layer["cells"]):
            cell = next(c for c in reversed(cells) if c["start"] <= nodes[i] or c is cells[0])
            away = nodes[i] - cell["start"]
            sums = sums + np.array(cell["powers"]) @ away ** np.arange(len(cell["powers"][0]))
            sums = sums + np.array(layer["silu"][i]) * ACTIVATIONS["silu"].evaluate(np.array(nodes[i]))
            flat = flat + [np.interp(polygon[i], layer["points"][i], row) for row in layer["values"][i]]
        nodes, polygon = list(sums), list(flat)
    return float(nodes[0]), float(polygon[0])


def test_the_problem_is_the_network(task: dict[str, Any]) -> None:
    case = next(case for case in cases() if case.name == NAME)
    kan = network(Request(path=case.path, repository=None, options=case.options))[0]
    first = task["layers"][0]
    x = np.random.default_rng(0).uniform(first["low"], first["high"], (200, len(first["low"])))
    y = float64_reference.evaluate(kan, x).y[:, 0]
    found = np.array([by_cells(task, row) for row in x])
    assert np.abs(found[:, 0] - y).max() < 1e-9
    assert np.abs(found[:, 1] - y).max() <= task["room"]
    assert task["room"] < 0.02 * np.ptp(y)


@pytest.mark.parametrize(("moved", "wrong"), [(0.0, 0), (-1.0, 1)])
def test_an_optimum_beyond_a_certificate_is_counted(task: dict[str, Any], moved: float, wrong: int) -> None:
    value = task["low"][1] + moved
    solved = {"value": value, "done": True, "seconds": 1.0}
    late = {"value": None, "done": False, "seconds": 60.0}
    lines, count = script.rows([task], [{"name": NAME, "end": "low", "scip": solved, "highs": late}])
    assert count == wrong
    assert "none in time" in lines[0]
