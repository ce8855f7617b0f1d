"""Contributions in `explain.onnx`: sums, equality with `kanserve explain`, and models without contributions."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kanexport.bundle import description, explain_graph
from kanexport.bundle.description import Signature
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.bundle.publish import Result
from kanexport.errors import VerificationFailed
from kanexport.ir.model import Kan
from kanexport.lowering import attribution as lowered
from kanexport.lowering import lower
from kanexport.lowering.attribution import contributions_graph
from kanexport.lowering.lower import Explained
from kanexport.pipeline import Request, export
from kanexport.shared.naming import UNNAMED
from kanexport.verify import attribution, float64_reference, graph_runner, verify
from kanexport.verify.attribution import NoContributions
from kanserve.insight import explain
from kanserve.insight.edge_queries import LayerGraph
from kanserve.runtime import ort
from kanserve.runtime.base import SessionOptions
from tests.support.golden_cases import case, cases, exported, relative_error, run
from tests.support.small_checkpoints import network, read
from tests.support.tiers import spread

NONE = {  # of the golden cases: why not
    "chebykan-digits-layernorm": "has the step 'layernorm'",
    "fasterkan-wine": "class B",
    "fastkan-breast-cancer-denominator": "class B",
    "fastkan-digits": "class B",
    "fourierkan-breast-cancer": "has the step",
    "jacobikan-wine": "has the step",
    "torchkan-digits": "has the step",
}


def explained(folder: Path, name: str, x: np.ndarray, **more: Any) -> Result:
    """A case, exported with these rows as the reference."""
    np.save(folder / "rows.npy", x)
    return exported(name, folder / "models", explain=True, baseline=folder / "rows.npy", **more)


def told(result: Result, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    actual = run(result.directory / "explain.onnx", {"x": x})
    return actual["y"], actual["contributions"].astype(np.float64)


def served(result: Result, x: np.ndarray) -> np.ndarray:
    """Contributions that Explain computes from the model graph and the edge graphs, for the same reference."""
    manifest = result.manifest

    def create(graph: bytes) -> Any:
        return ort.create(graph, SessionOptions("cpu", 1), beside={})

    graphs = tuple(
        LayerGraph(layer, lambda layer=layer: create((result.directory / layer.edges_file).read_bytes()))
        for layer in manifest.layers
    )
    reference = np.array([manifest.baseline.mean], x.dtype)
    pieces = explain.compute(
        create((result.directory / "model.onnx").read_bytes()),
        graphs,
        manifest,
        explain.Prepared(),
        {"x": x},
        ("", {"x": reference}),
        method="rescale",
        outputs=range(manifest.outputs[0].shape[1]),
        chunk_bytes=2**24,
    )
    return np.concatenate([piece.contributions for piece in pieces if piece is not None])


@spread("name", [item.name for item in cases()], 4)
def test_they_add_up_and_are_those_of_the_service(name: str, tmp_path: Path, state_error: Any) -> None:
    x = case(name).reference()["x"]
    x = x[np.isfinite(x).all(axis=1)]
    result = explained(tmp_path, name, x[::2])
    about, facts = result.manifest.explanations, _facts(result)
    if name in NONE:
        assert "contributions" not in [tensor.holds for tensor in about.tensors]
        assert any("has no contributions" in note and NONE[name] in note for note in result.manifest.notes)
        assert "base" not in facts
        return
    assert about.tensors[-1].holds == "contributions"
    y, actual = told(result, x)
    assert actual.shape == (len(x), x.shape[1], y.shape[1])
    missed = relative_error(actual.sum(axis=1) + np.array(about.base), y)
    state_error("completeness of explain.onnx, relative", missed, name)
    assert missed <= 1e-5
    apart = relative_error(actual, served(result, x))
    state_error("contributions of explain.onnx beside Explain's, relative", apart, name)
    assert apart <= 1e-4  # two float32 graphs, which divide by small differences
    assert facts["reference"] == list(result.manifest.baseline.mean)
    (of_reference,), _ = told(result, np.array([facts["reference"]], np.float32))
    np.testing.assert_allclose(facts["base"], of_reference, rtol=1e-4, atol=1e-5 * np.abs(of_reference).max())
    require_nan_apart(result, x[:5])


def _facts(result: Result) -> dict[str, Any]:
    """The file has its layers and base values in its metadata."""
    metadata = onnx.load(result.directory / "explain.onnx", load_external_data=False).metadata_props
    return json.loads(next(entry.value for entry in metadata if entry.key == "kanexport"))


def require_nan_apart(result: Result, x: np.ndarray) -> None:
    """A row with NaN has an explanation of NaN, and changes no other row."""
    spoilt = x.copy()
    spoilt[2, 0] = np.nan
    y, actual = told(result, spoilt)
    _, plain = told(result, x)
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(actual[others], plain[others], rtol=0, atol=1e-5 * np.abs(plain).max())
    assert np.isnan(actual[2]).any() == np.isnan(y[2]).any()


def test_of_a_network_that_keeps_its_inputs_on_the_grid(tmp_path: Path) -> None:
    """An input beyond the grid has the contribution of the value that it is clamped to."""
    x = np.random.default_rng(0).uniform(-3, 3, (40, 2)).astype(np.float32)
    result = explained(tmp_path, "pykan-hello-adapted", x, out_of_range="clamp")
    y, actual = told(result, x)
    assert relative_error(actual.sum(axis=1) + np.array(result.manifest.explanations.base), y) <= 1e-5
    assert relative_error(actual, served(result, x)) <= 1e-4
    (_, far) = told(result, np.array([[50, 0.1], [5, 0.1]], np.float32))
    np.testing.assert_array_equal(far[0], far[1])


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Kan]:
    return {
        products: read(network(3, products=products).write(tmp_path_factory.mktemp("toy")))[0]
        for products in (False, True)
    }


ROWS = st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=5)


@given(ROWS, st.booleans(), st.booleans())
@settings(max_examples=settings.default.max_examples // 5)
def test_in_float64_they_add_up_whatever_the_rows(
    networks: dict[bool, Kan], rows: list[list[float]], products: bool, there: bool
) -> None:
    kan, x = networks[products], np.array(rows)
    anchor = attribution.anchor(kan, x[0] if there else np.array([0.1, -0.2, 0.3]))
    trace = float64_reference.evaluate(kan, x)
    actual, _ = attribution.contributions(anchor, trace, "float64")
    scale = np.abs(trace.y).max() + np.abs(actual).max() + 1e-3
    np.testing.assert_allclose(actual.sum(axis=1) + anchor.base, trace.y, atol=1e-9 * scale)
    graph = contributions_graph(anchor, ["a", "b"], "float64")
    edges = {
        name: np.concatenate([values for _, values, _ in float64_reference.edges(layer, nodes)])
        for name, layer, nodes in zip("ab", kan.layers, trace.inputs, strict=True)
    }
    (given,) = graph_runner.run(graph_runner.session(graph), edges).values()
    np.testing.assert_allclose(given, actual, atol=1e-7 * scale)
    if there:
        assert np.abs(given[0]).max() <= 1e-9 * scale


def test_wrong_contributions_are_not_written(networks: dict[bool, Kan]) -> None:
    kan = networks[True]
    graphs, signature = lower.lower(kan, "float32"), Signature.of_network(kan, "float32")
    layers = description.layers(kan, graphs.node_tensors)
    anchor = explain_graph.attribution_baseline(ExplainOptions(True), kan, (0.1, 0.2, 0.3))
    assert isinstance(anchor, lowered.Anchor)
    created = explain_graph.add(ExplainOptions(True), graphs, layers, signature, UNNAMED, anchor)
    verify.verify(kan, created, "float32")
    assert created.explained is not None
    other = dataclasses.replace(anchor, row=anchor.row, base=anchor.base * 1.01)
    for wrong, words in (
        (attribution.anchor(kan, np.array([0.1, 0.2, 0.31])), r"contributions\[\d+,\d+\]"),
        (other, "the sum of contributions"),
    ):
        claimed = Explained(created.explained.graph, created.explained.about, (), wrong)
        with pytest.raises(VerificationFailed, match=rf"explain\.onnx differs .*{words}"):
            verify.verify(kan, dataclasses.replace(created, explained=claimed), "float32")


def test_what_has_none_says_why(networks: dict[bool, Kan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoContributions, match="outputs that are not finite"):
        attribution.anchor(networks[True], np.array([np.nan, 0, 0]))
    path = network(2, products=False).write(tmp_path)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(20, 3)))
    wanted = Request(path=path, repository=tmp_path / "models", baseline=tmp_path / "rows.npy", explain=True)
    chosen = export(dataclasses.replace(wanted, name="chosen", explain_layers=("1",))).manifest
    assert [tensor.name for tensor in chosen.explanations.tensors] == [
        "y",
        "layer1_in",
        "layer1_edges",
        "contributions",
    ]
    monkeypatch.setattr(explain_graph, "EDGE_LIMIT", 10)
    large = export(dataclasses.replace(wanted, name="large")).manifest
    assert any("explain.onnx has no contributions: layer 0 has 12 edges per row" in note for note in large.notes)
    unasked = export(dataclasses.replace(wanted, name="unasked", baseline=None)).manifest
    assert not any("contributions" in note for note in unasked.notes)
    assert unasked.explanations.base == ()


def test_no_rows_have_no_contributions(networks: dict[bool, Kan]) -> None:
    anchor = attribution.anchor(networks[True], np.zeros(3))
    graph = contributions_graph(anchor, ["a", "b"], "float32")
    feeds = {name: np.zeros((0, *link.edges.shape), np.float32) for name, link in zip("ab", anchor.links, strict=True)}
    (actual,) = graph_runner.run(graph_runner.session(graph), feeds).values()
    assert actual.shape == (0, 3, 2)
