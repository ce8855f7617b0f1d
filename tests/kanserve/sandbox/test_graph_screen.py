"""The operator allowlist and structural checks of graphs: accepted and rejected graphs, without execution."""

from __future__ import annotations

import onnx
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from onnx import TensorProto, helper

from kanserve.errors import LoadError, LoadReason
from kanserve.pb import onnx_graph_pb2 as pb
from kanserve.sandbox import graph_screen
from tests.support import hostile_graphs as hostile
from tests.support import toy_model

ALWAYS = True
STRICT = False
CASES: list[tuple[str, bytes, str, bool]] = [
    ("garbage", b"not a graph", "it is not an ONNX file, or it is damaged", ALWAYS),
    ("empty", b"", "it has no graph", ALWAYS),
    ("loop", hostile.endless(), "operator 'Loop' decides at run time which operators run", STRICT),
    ("branch", hostile.branch(), "operator 'If' decides at run time", STRICT),
    ("functions", hostile.chained(), "custom functions or training steps", STRICT),
    ("domain", hostile.foreign(), "operator 'QuickGelu' is in the operator domain 'com.microsoft'", STRICT),
    ("random", hostile.random(), "operator 'RandomNormalLike' returns different values each time", STRICT),
    ("sparse", hostile.sparse(), "it has sparse tensors", STRICT),
    ("dual data", hostile.dual(), "tensor 'W0' has its data more than once", ALWAYS),
    ("short data", hostile.short(), "tensor 'W0' has 44 bytes, expected 48 by its shape", ALWAYS),
    ("unknown field", hostile.extra(), "it has fields that ONNX does not have", STRICT),
    ("nested", hostile.nested(), "it is not an ONNX file, or it is damaged", ALWAYS),
    ("nested less", hostile.nested(5), "Identity '' has nested graphs, sparse tensors or references", STRICT),
    ("long", hostile.long(), "it has a chain of more than 20000 operators", STRICT),
    ("size by value", hostile.by_value(), "makes a tensor whose size depends on values of a request", STRICT),
    ("external", toy_model.graph(external=True, location="../secret"), "has its data in '../secret'", ALWAYS),
    (
        "external absolute",
        toy_model.graph(external=True, location="/etc/passwd"),
        "has its data in '/etc/passwd'",
        ALWAYS,
    ),
    ("external beyond", toy_model.graph(external=True), "but 48 bytes at 0 of weights.bin, which has 12", ALWAYS),
]


def changed(change: object) -> bytes:
    model = onnx.load_model_from_string(toy_model.graph())
    change(model)  # type: ignore[operator]  # a lambda of the tables below
    return model.SerializeToString()


def entries(model: onnx.ModelProto, **facts: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", **facts}.items():
        tensor.external_data.add(key=key, value=value)


def node(model: onnx.ModelProto, *parts: object) -> None:
    model.graph.node.append(helper.make_node(*parts))


CHANGES: list[tuple[str, object, str, bool]] = [
    ("opset", lambda m: setattr(m.opset_import[0], "version", 99), "it has opset 99, expected 7 to 28", STRICT),
    ("ir", lambda m: setattr(m, "ir_version", 2**60), "it has IR version", STRICT),
    (
        "unknown operator",
        lambda m: node(m, "Evil", ["y"], ["z"]),
        "'Evil' is not in the list of known ONNX operators",
        STRICT,
    ),
    (
        "before it is made",
        lambda m: node(m, "Tanh", ["q"], ["z"]),
        "uses 'q', which no operator before it makes",
        STRICT,
    ),
    ("made twice", lambda m: node(m, "Tanh", ["x"], ["y"]), "'y' is defined twice", STRICT),
    ("axes", lambda m: m.graph.initializer[0].dims.extend([1] * 40), "has 42 axes", ALWAYS),
    ("negative", lambda m: m.graph.initializer[0].dims.append(-1), "an axis of a negative size", ALWAYS),
    (
        "no data",
        lambda m: m.graph.initializer[0].ClearField("raw_data"),
        "has 0 numbers, expected 12 by its shape",
        ALWAYS,
    ),
    (
        "type",
        lambda m: setattr(m.graph.initializer[0], "data_type", 14),
        "is of type 14, which kanserve does not support",
        STRICT,
    ),
    (
        "here and there",
        lambda m: m.graph.initializer[0].external_data.add(key="a"),
        "contradicts itself about the file",
        ALWAYS,
    ),
    ("key", lambda m: entries(m, __class__="x"), "has an invalid location of external data", ALWAYS),
    ("length", lambda m: entries(m, length=str(2**60)), "but 1152921504606846976 bytes at 0 of weights.bin", ALWAYS),
    ("offset", lambda m: entries(m, offset="64"), "but 48 bytes at 64 of weights.bin", ALWAYS),
    ("offset words", lambda m: entries(m, offset="-8"), "but 48 bytes at -1 of weights.bin", ALWAYS),
    (
        "here and elsewhere",
        lambda m: (entries(m), setattr(m.graph.initializer[0], "raw_data", bytes(48))),
        "has data here and in another file",
        ALWAYS,
    ),
    ("segment", lambda m: m.graph.initializer[0].segment.SetInParent(), "or in parts", ALWAYS),
]
EVERY = [*CASES, *((name, changed(change), text, always) for name, change, text, always in CHANGES)]
BESIDE = {"weights.bin": 64}


@pytest.mark.parametrize(("data", "text", "always"), [case[1:] for case in EVERY], ids=[case[0] for case in EVERY])
def test_what_is_not_let_pass(data: bytes, text: str, always: bool) -> None:
    beside = {} if b"passwd" in data or b"secret" in data else BESIDE
    if text.endswith("which has 12"):
        beside = {"weights.bin": 12}
    with pytest.raises(LoadError) as caught:
        graph_screen.check("model.onnx", data, beside, strict=True)
    assert (caught.value.reason, text in str(caught.value)) == (LoadReason.STRUCTURE, True), str(caught.value)
    assert str(caught.value).startswith("model.onnx: ")
    assert (caught.value.code, caught.value.hint != "") == ("graph-invalid" if always else "graph-not-allowed", True)
    if always:
        with pytest.raises(LoadError, match="model"):
            graph_screen.check("model.onnx", data, beside, strict=False)
    else:
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
    for data in (
        toy_model.graph(),
        toy_model.graph("FP64"),
        toy_model.edge_graph(0),
        toy_model.edge_graph(1),
        hostile.huge(),
    ):
        graph_screen.check("model.onnx", data, {}, strict=strict)
    graph_screen.check("model.onnx", toy_model.graph(external=True), {"weights.bin": 48}, strict=strict)
    graph_screen.check("model.onnx", changed(lambda m: entries(m, offset="16", length="48")), BESIDE, strict=strict)


OURS = {"Model": "ModelProto", "Graph": "GraphProto", "Node": "NodeProto", "Attribute": "AttributeProto"}
OURS |= {"Tensor": "TensorProto", "SparseTensor": "SparseTensorProto", "Function": "FunctionProto"}
OURS |= {"OperatorSet": "OperatorSetIdProto", "Value": "ValueInfoProto", "Entry": "StringStringEntryProto"}
LENGTH = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE}


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_description_of_onnx_is_that_of_onnx(name: str) -> None:
    """Field by field: no number is missing, and each is read from the wire as the runtime reads it."""

    def wire(descriptor: Descriptor) -> dict[int, tuple[bool, object]]:
        return {
            field.number: (field.is_repeated, "length" if field.type in LENGTH else kind(field))
            for field in descriptor.fields
        }

    def kind(field: FieldDescriptor) -> object:
        return FieldDescriptor.TYPE_INT32 if field.type == FieldDescriptor.TYPE_ENUM else field.type

    assert wire(getattr(pb, name).DESCRIPTOR) == wire(getattr(onnx, OURS[name]).DESCRIPTOR)
