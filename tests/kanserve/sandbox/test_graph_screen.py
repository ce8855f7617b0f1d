"""The operator allowlist and structural checks of graphs: accepted and rejected graphs, without execution."""

from collections.abc import Callable

import onnx
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from onnx import TensorProto, helper

from kanserve.errors import LoadError, LoadReason
from kanserve.pb import onnx_graph_pb2 as pb
from kanserve.sandbox import graph_screen
from tests.support import hostile_bundles as hostile
from tests.support import toy_model
from tests.support.bad_requests import not_loaded

EXTERNAL = toy_model.graph(external=True)


def changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = onnx.load_model_from_string(toy_model.graph())
    change(model)
    return model.SerializeToString()


def entries(model: onnx.ModelProto, **facts: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", **facts}.items():
        tensor.external_data.add(key=key, value=value)


def node(model: onnx.ModelProto, *parts: object) -> None:
    model.graph.node.append(helper.make_node(*parts))


def weights(change: Callable[[TensorProto], object]) -> bytes:
    """The toy with its first weights changed."""
    return changed(lambda model: change(model.graph.initializer[0]))


ALWAYS: dict[str, bytes] = {  # also where the allowlist is relaxed
    "it is not an ONNX file, or it is damaged": b"not a graph",
    "not an ONNX file, or it is damaged": hostile.nested(),
    "it has no graph": b"",
    "tensor 'W0' has its data more than once": hostile.dual(),
    "tensor 'W0' has 44 bytes, expected 48 by its shape": hostile.short(),
    "has its data in '../secret'": toy_model.graph(external=True, location="../secret"),
    "has its data in '/etc/passwd'": toy_model.graph(external=True, location="/etc/passwd"),
    "but 48 bytes at 0 of weights.bin, which has 12": EXTERNAL,
    "has 42 axes": weights(lambda w: w.dims.extend([1] * 40)),
    "an axis of a negative size": weights(lambda w: w.dims.append(-1)),
    "has 0 numbers, expected 12 by its shape": weights(lambda w: w.ClearField("raw_data")),
    "contradicts itself about the file": weights(lambda w: w.external_data.add(key="a")),
    "has an invalid location of external data": changed(lambda m: entries(m, __class__="x")),
    "but 1152921504606846976 bytes at 0 of weights.bin": changed(lambda m: entries(m, length=str(2**60))),
    "but 48 bytes at 64 of weights.bin": changed(lambda m: entries(m, offset="64")),
    "but 48 bytes at -1 of weights.bin": changed(lambda m: entries(m, offset="-8")),
    "has data here and in another file": changed(
        lambda m: (entries(m), setattr(m.graph.initializer[0], "raw_data", bytes(48)))
    ),
    "or in parts": weights(lambda w: w.segment.SetInParent()),
}
STRICT: dict[str, bytes] = {
    "operator 'Loop' decides at run time which operators run": hostile.endless(),
    "operator 'If' decides at run time": hostile.branch(),
    "custom functions or training steps": hostile.chained(),
    "operator 'QuickGelu' is in the operator domain 'com.microsoft'": hostile.foreign(),
    "operator 'RandomNormalLike' returns different values each time": hostile.noisy(),
    "it has sparse tensors": hostile.sparse(),
    "it has fields that ONNX does not have": hostile.extra(),
    "Identity '' has nested graphs, sparse tensors or references": hostile.nested(5),
    "it has a chain of more than 20000 operators": hostile.long(),
    "makes a tensor whose size depends on values of a request": hostile.by_value(),
    "it has IR version": changed(lambda m: setattr(m, "ir_version", 2**60)),
    "'Evil' is not in the list of known ONNX operators": changed(lambda m: node(m, "Evil", ["y"], ["z"])),
    "uses 'q', which no operator before it makes": changed(lambda m: node(m, "Tanh", ["q"], ["z"])),
    "'y' is defined twice": changed(lambda m: node(m, "Tanh", ["x"], ["y"])),
    "is of type 14, which kanserve does not support": weights(lambda w: setattr(w, "data_type", 14)),
}
BESIDE = {"weights.bin": 64}


@pytest.mark.parametrize("text", [*ALWAYS, *STRICT])
def test_what_is_not_let_pass(text: str) -> None:
    data = (ALWAYS | STRICT)[text]
    beside = {} if b"passwd" in data or b"secret" in data else {"weights.bin": 12} if data is EXTERNAL else BESIDE
    with not_loaded(LoadReason.STRUCTURE, text) as caught:
        graph_screen.check("model.onnx", data, beside, strict=True)
    assert str(caught.value).startswith("model.onnx: ")
    assert caught.value.hint
    if text in ALWAYS:
        assert caught.value.code == "graph-invalid"
        with pytest.raises(LoadError, match="model"):
            graph_screen.check("model.onnx", data, beside, strict=False)
    else:
        assert caught.value.code == "graph-not-allowed"
        assert "graph_allowlist = relaxed" in caught.value.hint
        if not text.startswith("it has sparse"):  # its parts lie elsewhere
            graph_screen.check("model.onnx", data, beside, strict=False)


def all_of(model: onnx.ModelProto, *, strict: bool = True) -> list[str]:
    return list(graph_screen.graph_faults(pb.Model.FromString(model.SerializeToString()), {}, strict=strict))


def test_all_faults_are_told_where_somebody_asks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    relaxed = " (graph_allowlist = relaxed allows it)"
    model = onnx.load_model_from_string(toy_model.graph())
    node(model, "Tanh", ["q"], ["z"])
    node(model, "Tanh", ["y"], ["y"])
    model.functions.add(name="f", domain="d").node.append(helper.make_node("Tanh", ["a"], ["b"]))
    assert all_of(model) == [
        f"it has custom functions or training steps{relaxed}",
        f"Tanh '' uses 'q', which no operator before it makes{relaxed}",
    ]
    monkeypatch.setattr(graph_screen, "NODES", 1)
    assert all_of(model)[1].endswith(f"expected at most 1 and {graph_screen.TENSORS}{relaxed}")
    assert all_of(model, strict=False) == []
    monkeypatch.undo()
    for most, told in ((1, True), (2, False)):  # the toy has two
        monkeypatch.setattr(graph_screen, "TENSORS", most)
        assert any("expected at most" in fault for fault in all_of(model)) is told


def test_data_is_looked_at_wherever_it_stands() -> None:
    """In attributes, in graphs inside graphs, and in the parts of sparse tensors; relaxed too."""
    short = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[2])
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=short)], "inner", [], [], [short])
    sparse = onnx.SparseTensorProto(values=short, indices=short, dims=[2])
    model = onnx.load_model_from_string(toy_model.graph())
    model.graph.node.append(helper.make_node("If", ["x"], ["w"], then_branch=inner, more=[inner]))
    model.graph.node.append(helper.make_node("Constant", [], ["v"], sparse_value=sparse, rest=[short]))
    wrong = "tensor 's' has 0 numbers, expected 2 by its shape"
    assert all_of(model, strict=False) == [wrong] * 7
    model.graph.sparse_initializer.append(sparse)
    assert all_of(model, strict=False) == [wrong] * 9
    assert "Constant '' has nested graphs, sparse tensors or references" in "".join(all_of(model))


def test_numbers_may_lie_in_the_field_of_their_type() -> None:
    tensor = TensorProto(name="n", data_type=TensorProto.FLOAT, dims=[2], float_data=[1, 2])
    assert all_of(helper.make_model(helper.make_graph([], "g", [], [], [tensor])), strict=False) == []


@pytest.mark.parametrize("strict", [True, False])
def test_what_passes(strict: bool) -> None:
    edges = (toy_model.edge_graph(0), toy_model.edge_graph(1))
    for data in (toy_model.graph(), toy_model.graph("FP64"), *edges, hostile.huge()):
        graph_screen.check("model.onnx", data, {}, strict=strict)
    graph_screen.check("model.onnx", toy_model.graph(external=True), {"weights.bin": 48}, strict=strict)
    graph_screen.check("model.onnx", changed(lambda m: entries(m, offset="16", length="48")), BESIDE, strict=strict)


OURS = {"Model": "ModelProto", "Graph": "GraphProto", "Node": "NodeProto", "Attribute": "AttributeProto"}
OURS |= {"Tensor": "TensorProto", "SparseTensor": "SparseTensorProto", "Function": "FunctionProto"}
OURS |= {"OperatorSet": "OperatorSetIdProto", "Value": "ValueInfoProto", "Entry": "StringStringEntryProto"}
LENGTH = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE}


def test_our_description_of_onnx_is_that_of_onnx() -> None:
    """Field by field: no number is missing, and each is read from the wire as the runtime reads it."""

    def wire(descriptor: Descriptor) -> dict[int, tuple[bool, object]]:
        return {
            field.number: (field.is_repeated, "length" if field.type in LENGTH else kind(field))
            for field in descriptor.fields
        }

    def kind(field: FieldDescriptor) -> object:
        return FieldDescriptor.TYPE_INT32 if field.type == FieldDescriptor.TYPE_ENUM else field.type

    for name, theirs in OURS.items():
        assert wire(getattr(pb, name).DESCRIPTOR) == wire(getattr(onnx, theirs).DESCRIPTOR), name
