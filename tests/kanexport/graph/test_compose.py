"""Tests of `graph/compose.py`."""

import pytest

from kanexport.bundle import description, explain_graph
from kanexport.bundle.description import Signature
from kanexport.bundle.explain_graph import ExplainOptions
from kanexport.errors import InvalidKan
from kanexport.graph import compose
from kanexport.graph.compose import AppendedGraph, joined
from kanexport.lowering import lower
from kanexport.shared.naming import UNNAMED
from tests.support import hostile_bundles as hostile
from tests.support import toy_model
from tests.support.golden_cases import network


def test_an_export_says_what_a_server_would_say() -> None:
    assert compose.notes(toy_model.graph()) == ()
    (note,) = compose.notes(hostile.endless())
    assert note == (
        "the graph has the operator Loop, which decides at run time which operators run, and how often: "
        "kanserve accepts it only with --graph-allowlist relaxed"
    )
    (note,) = compose.notes(hostile.foreign())
    assert "QuickGelu, which is in the operator domain 'com.microsoft'" in note


def test_graphs_that_do_not_fit_into_one_are_refused() -> None:
    kan = network("pykan-hello-adapted")
    graphs = lower.lower(kan, "float32")
    layers = description.layers(kan, graphs.node_tensors)
    created = explain_graph.add(ExplainOptions(True), graphs, layers, Signature.of_network(kan, "float32"), UNNAMED)
    part = AppendedGraph(graphs.edges[0], layers[0].edges_tensor, explain_graph.edges_name(0))
    with pytest.raises(InvalidKan, match="do not fit into one"):
        joined(created.model, [AppendedGraph(part.graph.replace(b"\x01x", b"\x01q"), "edges", "e")], {})
    with pytest.raises(InvalidKan, match="do not fit into one"):
        joined(created.model, [part, part], {})
