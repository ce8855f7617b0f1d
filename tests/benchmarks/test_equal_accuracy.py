"""Comparison of KANs with MLPs: the search for the narrowest MLP, and the graph of a trained MLP."""

import json
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from benchmarks import equal_accuracy as script
from benchmarks import pages
from benchmarks.matrix import contestants

CASE = script.CASES[0]


@pytest.mark.parametrize(("reached_from", "expected"), [(2, 2), (7, 8), (8, 8), (48, 48), (49, None)])
def test_the_narrowest_width_is_found(monkeypatch: Any, reached_from: int, expected: int | None) -> None:
    def learnt(case: Any, widths: Any, activation: str) -> tuple[float, Any]:
        return (1e-3 if widths[1] >= reached_from else 1e-1), widths

    monkeypatch.setattr(script, "learnt", learnt)
    found = script.equal(CASE, 1e-2, "tanh")
    assert (None if found is None else found[1][1]) == expected


@pytest.mark.parametrize("activation", script.ACTIVATIONS)
def test_the_graph_computes_the_network(activation: str) -> None:
    network = script.Network((2, 5, 5, 1), activation, 0)
    x = CASE.rows(0, 7)
    with torch.no_grad():
        expected = network(torch.tensor(x)).numpy()
    outputs = contestants.runner(script.graph(network), 1)(x.astype(np.float32))[:, 0]
    assert np.allclose(outputs, expected, atol=1e-6)
    assert script.widths_of(network) == [2, 5, 5, 1]


def test_the_page_has_the_stored_results() -> None:
    results = json.loads(script.RESULTS.read_text())
    expected = {f"size: {name}" for name in script.SIZED} | {f"accuracy: {script.key(case)}" for case in script.CASES}
    assert set(results) == expected
    for name, text in script.parts(results):
        assert pages.read(script.PAGE, name, script.WRITER) == text
