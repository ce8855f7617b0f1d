"""Additivity for every family: the edges and the bias of a node sum to its value for each row."""

from __future__ import annotations

import functools

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.detection import detect
from kanexport.formats import checkpoint
from kanexport.ir.model import Kan
from kanexport.lowering import lower
from kanexport.options import Options
from tests.support.golden_cases import cases

CASES = {case.facts["family"]: case for case in reversed(cases())}


@functools.cache
def lowered(family: str) -> tuple[Kan, list[onnxruntime.InferenceSession], onnxruntime.InferenceSession]:
    """The network of a family's case, its edge graphs, and its serving graph, in float64."""
    case = CASES[family]
    loaded = checkpoint.load(case.path)
    reader, _ = detect.detect(loaded, None)
    kan = detect.read(reader, loaded, Options.parse(case.options))
    created = lower.lower(kan, "float64")
    provider = ["CPUExecutionProvider"]
    sessions = [onnxruntime.InferenceSession(graph, providers=provider) for graph in created.edges]
    return kan, sessions, onnxruntime.InferenceSession(created.model, providers=provider)


@pytest.mark.parametrize("family", sorted(CASES))
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([0.0, 0.1, 1.0, 3.0, 50.0]), rows=st.integers(1, 9))
@settings(max_examples=max(2, settings.default.max_examples // 50))
def test_edges_and_bias_add_up_to_the_node(family: str, seed: int, scale: float, rows: int) -> None:
    kan, edge_sessions, session = lowered(family)
    x = np.random.default_rng(seed).normal(0, scale, size=(rows, kan.n_inputs))
    names = [output.name for output in session.get_outputs()]
    result = {"x": x, **dict(zip(names, session.run(names, {"x": x}), strict=True))}
    tensors = ["x", *(f"layer{at}_in" for at in range(1, len(kan.layers))), "y"]
    for at, (layer, edges) in enumerate(zip(kan.layers, edge_sessions, strict=True)):
        (values,) = edges.run(["edges"], {tensors[at]: result[tensors[at]]})
        assert values.shape == (rows, layer.sources, layer.destinations)
        node = values.sum(axis=1) + layer.bias
        for step in layer.post_steps:
            node = step.evaluate(node)
        expected = result[tensors[at + 1]]
        magnitude = max(np.abs(values).max(), np.abs(expected).max(), 1.0)
        np.testing.assert_allclose(node, expected, rtol=0, atol=1e-9 * magnitude)
