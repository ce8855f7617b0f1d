"""`--explain`: a graph with contributions next to each prediction, in any onnxruntime; and models without one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from kanexport.bundle import description, explain_graph
from kanexport.bundle.description import Signature
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.bundle.publish import Result
from kanexport.cli import export_command
from kanexport.errors import OptionError, VerificationFailed
from kanexport.graph.compose import AppendedGraph, joined
from kanexport.lowering import lower
from kanexport.lowering.lower import Explained, Lowered
from kanexport.shared import manifest as manifests
from kanexport.shared.naming import UNNAMED, Names
from kanexport.shared.step_rules import UnknownStep
from kanexport.verify import verify
from kanserve.analysis import attribution
from kanserve.repository import validation
from tests.support import golden_cases
from tests.support.golden_cases import EDGE_TOLERANCE, case, cases, relative_error, run
from tests.support.small_checkpoints import read
from tests.support.tiers import spread

ADAPTED = "pykan-hello-adapted"


def exported(folder: Path, name: str = ADAPTED, **more: Any) -> Result:
    return golden_cases.exported(name, folder, **{"explain": True, **more})


@spread("name", [item.name for item in cases()], 4)
def test_its_edges_are_the_libraries_own_and_add_up_to_the_nodes(name: str, tmp_path: Path, state_error: Any) -> None:
    result, reference = exported(tmp_path, name), case(name).reference()
    supplied = run(result.directory / manifests.MODEL_FILE, {"x": reference["x"]})
    actual = run(result.directory / "explain.onnx", {"x": reference["x"]})
    for tensor, values in supplied.items():
        np.testing.assert_array_equal(actual[tensor], values)  # to the bit
    require_described(result, actual)
    layers = result.manifest.layers
    for at, layer in enumerate(layers):
        edges = actual[f"layer{at}_edges"]
        error = relative_error(edges, reference[f"layer{at}_edges"])
        state_error("edges of explain.onnx, relative", error, f"{name}, layer {at}")
        assert error <= EDGE_TOLERANCE
        with np.errstate(all="ignore"):
            sums = edges.astype(np.float64).sum(axis=1) + np.array(layer.bias or 0.0)
            assert relative_error(sums, reference[f"layer{at}_pre"]) <= EDGE_TOLERANCE
            try:
                nodes = attribution.apply_post_steps(layer, sums)
            except UnknownStep:
                continue
            following = actual["y" if at == len(layers) - 1 else layers[at + 1].node_tensor]
            assert relative_error(nodes, following) <= EDGE_TOLERANCE


def require_described(result: Result, actual: dict[str, np.ndarray]) -> None:
    """The manifest names every output of the graph as it is."""
    reported = result.manifest.explanations
    assert reported.file == "explain.onnx"
    assert {tensor.name: tuple(tensor.shape[1:]) for tensor in reported.tensors} == {
        key: value.shape[1:] for key, value in actual.items()
    }
    assert [tensor.holds for tensor in reported.tensors].count("edges") == len(result.manifest.layers)
    assert result.manifest.file("explain.onnx").sha256
    assert {zone.name for zone in result.manifest.verification.explaining} >= {"inside", "far", "nonfinite", "single"}
    assert list(validation.limit_faults(result.manifest)) == []
    assert manifests.loads(manifests.dumps(result.manifest)) == result.manifest


def test_its_metadata_name_what_adds_up(tmp_path: Path) -> None:
    """A user of onnxruntime has no other file."""
    result = exported(tmp_path, names=Names(features=("length", "width"), classes=("area",)))
    session = onnxruntime.InferenceSession(result.directory / "explain.onnx")
    told = json.loads(session.get_modelmeta().custom_metadata_map["kanexport"])
    assert [output["name"] for output in told["outputs"]] == [output.name for output in session.get_outputs()]
    assert (told["names"]["features"], told["bias"]) == (["length", "width"], [[], []])


def test_layers_are_chosen_by_number_or_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = exported(tmp_path / "chosen", explain=False, explain_layers=("1",)).manifest
    assert [tensor.name for tensor in chosen.explanations.tensors] == ["y", "layer1_in", "layer1_edges"]
    assert not any("explain.onnx" in note for note in chosen.notes)
    monkeypatch.setattr(explain_graph, "EDGE_LIMIT", 9)
    small = exported(tmp_path / "small").manifest
    assert [tensor.name for tensor in small.explanations.tensors] == ["y", "layer1_in", "layer1_edges"]
    (note,) = small.notes
    assert "no edges of layer 0: 10 per row are more than 9; select it with --explain-layers" in note
    monkeypatch.setattr(explain_graph, "EDGE_LIMIT", 0)
    bare = exported(tmp_path / "bare").manifest
    assert [tensor.name for tensor in bare.explanations.tensors] == ["y", "layer1_in"]
    with pytest.raises(OptionError, match="unknown layer '2', the model has 2 layers"):
        exported(tmp_path / "none", explain_layers=("2",))
    assert not (tmp_path / "none").exists()


def test_of_a_large_model_it_shares_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = exported(tmp_path / "alone", "efficient-kan-digits")
    monkeypatch.setattr(lower, "SHARED_FROM", 0)
    shared = exported(tmp_path / "shared", "efficient-kan-digits")
    assert (shared.directory / manifests.WEIGHTS_FILE).exists()
    sizes = [item.manifest.file("explain.onnx").size for item in (alone, shared)]
    assert sizes[1] < sizes[0] / 2
    x = case("efficient-kan-digits").reference()["x"]
    own, other = (run(result.directory / "explain.onnx", {"x": x}) for result in (alone, shared))
    for name, values in other.items():
        np.testing.assert_array_equal(values, own[name])


def lowered_of(name: str = ADAPTED) -> tuple[Any, Lowered, list[AppendedGraph]]:
    """A network, its graphs with an explaining one, and the parts of that graph."""
    item = case(name)
    kan, _ = read(item.path, *item.options)
    graphs = lower.lower(kan, "float32")
    layers = description.layers(kan, graphs.node_tensors)
    created = explain_graph.add(ExplainOptions(True), graphs, layers, Signature.of_network(kan, "float32"), UNNAMED)
    parts = [
        AppendedGraph(graphs.edges[at], layer.edges_tensor, explain_graph.edges_name(at))
        for at, layer in enumerate(layers)
    ]
    return kan, created, parts


def proved(kan: Any, built: Lowered, graph: bytes) -> None:
    assert built.explained is not None
    changed = dataclasses.replace(built, explained=Explained(graph, built.explained.about))
    verify.verify(kan, changed, "float32")


def test_a_graph_that_tells_other_edges_or_nodes_is_not_written() -> None:
    kan, created, parts = lowered_of()
    assert created.explained is not None
    proved(kan, created, created.explained.graph)
    wrong = onnx.load_model_from_string(parts[0].graph)
    largest = max(
        (entry for entry in wrong.graph.initializer if entry.data_type == 1), key=lambda entry: len(entry.raw_data)
    )
    largest.raw_data = (np.frombuffer(largest.raw_data, np.float32) * np.float32(1.001)).tobytes()
    edges = dataclasses.replace(parts[0], graph=wrong.SerializeToString())
    with pytest.raises(VerificationFailed, match=r"explain\.onnx differs from the checkpoint on inside rows: edges by"):
        proved(kan, created, joined(created.model, [edges, parts[1]], {}))
    with pytest.raises(VerificationFailed, match="layer1_edges has shape"):
        proved(kan, created, joined(created.model, parts[:1], {}))
    model = onnx.load_model_from_string(created.model)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["before" if name == "layer1_in" else name for name in names]
    model.graph.node.append(onnx.helper.make_node("Tanh", ["before"], ["layer1_in"]))
    with pytest.raises(VerificationFailed, match=r"explain\.onnx differs .*layer1_in\["):
        proved(kan, created, joined(model.SerializeToString(), parts, {}))


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(case(ADAPTED).path)
    assert export_command.main([path, "--repository", str(tmp_path), "--name", "a", "--explain"]) == 0
    assert "explain.onnx: y, layer1_in, layer0_edges, layer1_edges" in capsys.readouterr().out
    chosen = ["--name", "b", "--explain-layers", "1, 0", "--json"]
    assert export_command.main([path, "--repository", str(tmp_path), *chosen]) == 0
    reported = json.loads(capsys.readouterr().out)["explanations"]
    assert [tensor["layer"] for tensor in reported["tensors"] if tensor["holds"] == "edges"] == [0, 1]
    whole = [str(case(ADAPTED).path.parent), "--recursive", "--repository", str(tmp_path / "all"), "--explain"]
    assert export_command.main(whole) == 0
    assert list((tmp_path / "all").glob("*/1/explain.onnx"))
    capsys.readouterr()
    assert export_command.main([str(tmp_path), "--recursive", "--explain-layers", "0"]) == 2
    assert "--explain-layers cannot be combined with --recursive" in capsys.readouterr().err


def test_the_edges_of_a_chosen_layer_of_a_module_are_told_at_every_position(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import kanexport
    from tests.support.torch_modules import FastKANLayer, Stack

    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(8, 5, 4)).astype(np.float32)
    np.save(tmp_path / "rows.npy", x)
    asked: dict[str, Any] = {"explain": ["layers.1"], "baseline": tmp_path / "rows.npy"}
    module = Stack(torch.nn.Linear(4, 3), FastKANLayer(3, 2))
    result = kanexport.export(module, x, name="m", repository=tmp_path, **asked)
    layer = result.manifest.layers[1]
    actual = run(result.directory / "explain.onnx", {"x": x})
    nodes = actual[layer.node_tensor].reshape(-1, layer.sources)
    edges = run(result.directory / layer.edges_file, {layer.node_tensor: nodes})[layer.edges_tensor]
    assert actual["layer1_edges"].shape == (8, 5, layer.sources, layer.destinations)
    np.testing.assert_array_equal(actual["layer1_edges"].reshape(edges.shape), edges)
    assert [tensor.layer for tensor in result.manifest.explanations.tensors if tensor.holds == "edges"] == [1]
    assert any("has no contributions: the model is a PyTorch module" in note for note in result.manifest.notes)
