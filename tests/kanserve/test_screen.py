"""What the structural screen lets pass, and what not. Nothing here is run."""

from __future__ import annotations

import onnx
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from onnx import TensorProto, defs, helper

from kanexport.operators import served
from kanexport.shared import operators
from kanserve.errors import LoadError, LoadReason
from kanserve.pb import onnx_graph_pb2 as pb
from kanserve.trials import screen
from tests.kanserve import hostile_graphs as hostile
from tests.kanserve import toy

ALWAYS = True
STRICT = False
CASES: list[tuple[str, bytes, str, bool]] = [
    ("garbage", b"not a graph", "it is no ONNX file, or a damaged one", ALWAYS),
    ("empty", b"", "it holds no graph", ALWAYS),
    ("loop", hostile.endless(), "operator 'Loop' decides at run time which operators run", STRICT),
    ("branch", hostile.branch(), "operator 'If' decides at run time", STRICT),
    ("functions", hostile.chained(), "functions or training steps of its own", STRICT),
    ("domain", hostile.foreign(), "operator 'QuickGelu' is of the domain 'com.microsoft'", STRICT),
    ("random", hostile.random(), "operator 'RandomNormalLike' gives other answers each time", STRICT),
    ("sparse", hostile.sparse(), "it has sparse tensors", STRICT),
    ("dual data", hostile.dual(), "tensor 'W0' holds its data more than once", ALWAYS),
    ("short data", hostile.short(), "tensor 'W0' has 44 bytes, its shape says 48", ALWAYS),
    ("unknown field", hostile.extra(), "it has fields that ONNX does not have", STRICT),
    ("nested", hostile.nested(), "it is no ONNX file, or a damaged one", ALWAYS),
    ("nested less", hostile.nested(5), "Identity '' has graphs, sparse tensors or references of its own", STRICT),
    ("long", hostile.long(), "more than 20000 operators follow one another", STRICT),
    ("size by value", hostile.by_value(), "makes a tensor whose size follows from values of a request", STRICT),
    ("external", toy.graph(external=True, location="../secret"), "keeps its data in '../secret'", ALWAYS),
    ("external absolute", toy.graph(external=True, location="/etc/passwd"), "keeps its data in '/etc/passwd'", ALWAYS),
    (
        "external beyond",
        toy.graph(external=True),
        "says that it has 48 at 0 of weights.bin, which has 12",
        ALWAYS,
    ),
]


def changed(change: object) -> bytes:
    model = onnx.load_model_from_string(toy.graph())
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
    ("unknown operator", lambda m: node(m, "Evil", ["y"], ["z"]), "'Evil' is none that is known here", STRICT),
    ("before it is made", lambda m: node(m, "Tanh", ["q"], ["z"]), "takes 'q', which nothing before it makes", STRICT),
    ("made twice", lambda m: node(m, "Tanh", ["x"], ["y"]), "'y' is made twice", STRICT),
    ("axes", lambda m: m.graph.initializer[0].dims.extend([1] * 40), "has 42 axes", ALWAYS),
    ("negative", lambda m: m.graph.initializer[0].dims.append(-1), "a size below zero", ALWAYS),
    ("no data", lambda m: m.graph.initializer[0].ClearField("raw_data"), "has 0 numbers, its shape says 12", ALWAYS),
    ("type", lambda m: setattr(m.graph.initializer[0], "data_type", 14), "is of type 14, which is not served", STRICT),
    ("here and there", lambda m: m.graph.initializer[0].external_data.add(key="a"), "says of data in another", ALWAYS),
    ("key", lambda m: entries(m, __class__="x"), "does not say where its data lies as ONNX has it", ALWAYS),
    (
        "length",
        lambda m: entries(m, length=str(2**60)),
        "says that it has 1152921504606846976 at 0 of weights.bin",
        ALWAYS,
    ),
    ("offset", lambda m: entries(m, offset="64"), "says that it has 48 at 64 of weights.bin", ALWAYS),
    ("offset words", lambda m: entries(m, offset="-8"), "says that it has 48 at -1 of weights.bin", ALWAYS),
    (
        "here and elsewhere",
        lambda m: (entries(m), setattr(m.graph.initializer[0], "raw_data", bytes(48))),
        "holds data here and in another file",
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
        screen.check("model.onnx", data, beside, strict=True)
    assert (caught.value.reason, text in str(caught.value)) == (LoadReason.STRUCTURE, True), str(caught.value)
    assert str(caught.value).startswith("model.onnx: ")
    if always:
        with pytest.raises(LoadError, match="model"):
            screen.check("model.onnx", data, beside, strict=False)
    else:
        assert "graph_screen = relaxed" in str(caught.value)
        if not text.startswith("it has sparse"):  # its parts lie elsewhere
            screen.check("model.onnx", data, beside, strict=False)


def all_of(model: onnx.ModelProto, *, strict: bool = True) -> list[str]:
    return list(screen.faults(pb.Model.FromString(model.SerializeToString()), {}, strict=strict))


def test_all_faults_are_told_where_somebody_asks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    relaxed = " (graph_screen = relaxed allows it)"
    model = onnx.load_model_from_string(toy.graph())
    node(model, "Tanh", ["q"], ["z"])
    node(model, "Tanh", ["y"], ["y"])
    model.functions.add(name="f", domain="d").node.append(helper.make_node("Tanh", ["a"], ["b"]))
    assert all_of(model) == [
        f"it has functions or training steps of its own{relaxed}",
        f"Tanh '' takes 'q', which nothing before it makes{relaxed}",
    ]
    monkeypatch.setattr(screen, "NODES", 1)
    assert all_of(model)[1].endswith(f"are more than 1 and {screen.TENSORS}{relaxed}")
    assert all_of(model, strict=False) == []


def test_data_is_looked_at_wherever_it_stands() -> None:
    """In attributes, in graphs inside graphs, and in the parts of sparse tensors; relaxed too."""
    short = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[2])
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=short)], "inner", [], [], [short])
    sparse = onnx.SparseTensorProto(values=short, indices=short, dims=[2])
    model = onnx.load_model_from_string(toy.graph())
    model.graph.node.append(helper.make_node("If", ["x"], ["w"], then_branch=inner, more=[inner]))
    model.graph.node.append(helper.make_node("Constant", [], ["v"], sparse_value=sparse, rest=[short]))
    wrong = "tensor 's' has 0 numbers, its shape says 2"
    assert all_of(model, strict=False) == [wrong] * 7
    model.graph.sparse_initializer.append(sparse)
    assert all_of(model, strict=False) == [wrong] * 9
    assert "Constant '' has graphs, sparse tensors or references of its own" in "".join(all_of(model))


def test_numbers_may_lie_in_the_field_of_their_type() -> None:
    tensor = TensorProto(name="n", data_type=TensorProto.FLOAT, dims=[2], float_data=[1, 2])
    assert all_of(helper.make_model(helper.make_graph([], "g", [], [], [tensor])), strict=False) == []


@pytest.mark.parametrize("strict", [True, False])
def test_what_passes(strict: bool) -> None:
    for data in (toy.graph(), toy.graph("FP64"), toy.edge_graph(0), toy.edge_graph(1), hostile.huge()):
        screen.check("model.onnx", data, {}, strict=strict)
    screen.check("model.onnx", toy.graph(external=True), {"weights.bin": 48}, strict=strict)
    screen.check("model.onnx", changed(lambda m: entries(m, offset="16", length="48")), BESIDE, strict=strict)


def test_every_operator_of_onnx_is_let_pass_or_left_out_for_a_reason() -> None:
    known = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    assert known <= operators.ALLOWED | set(operators.LEFT_OUT), "a new release of ONNX: say what each is"
    assert not operators.ALLOWED & set(operators.LEFT_OUT)
    inner = {
        schema.name
        for schema in defs.get_all_schemas()
        for attribute in schema.attributes.values()
        if attribute.type in (defs.OpSchema.AttrType.GRAPH, defs.OpSchema.AttrType.GRAPHS)
    }
    assert not inner & operators.ALLOWED
    assert defs.onnx_opset_version() <= operators.OPSETS[1]
    assert operators.IR_VERSIONS[1] >= onnx.IR_VERSION


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


def test_an_export_says_what_a_server_would_say() -> None:
    assert served.notes(toy.graph()) == ()
    (note,) = served.notes(hostile.endless())
    assert note == (
        "the graph has the operator Loop, which decides at run time which operators run, and how often: "
        "kanserve takes it with --graph-screen relaxed only"
    )
    (note,) = served.notes(hostile.foreign())
    assert "QuickGelu, which is of the domain 'com.microsoft'" in note


RELAXED = " (graph_screen = relaxed allows it)"


def flat(*nodes: object, values: tuple[str, ...] = ()) -> list[str]:
    """The faults of a graph of these operators over the input `x` and the constants `values`."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])
    constants = [TensorProto(name=name, data_type=TensorProto.FLOAT, float_data=[1]) for name in values]
    for constant in constants:
        constant.dims.append(1)
    graph = helper.make_graph(list(nodes), "flat", [given], [], constants)  # type: ignore[arg-type]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return [fault.removesuffix(RELAXED) for fault in all_of(model)]


SHAPED = [  # by ONNX's description of each operator: where the tensor comes that says how large its output is
    ("ConstantOfShape", 1, {0}),
    ("BlackmanWindow", 1, {0}),
    ("HammingWindow", 1, {0}),
    ("HannWindow", 1, {0}),
    ("Expand", 2, {1}),
    ("Tile", 2, {1}),
    ("Pad", 4, {1}),
    ("OneHot", 3, {1}),
    ("CenterCropPad", 2, {1}),
    ("AffineGrid", 2, {1}),
    ("Upsample", 2, {1}),
    ("DFT", 3, {1}),
    ("Range", 3, {0, 1, 2}),
    ("MelWeightMatrix", 5, {0, 1, 2}),
    ("Resize", 4, {2, 3}),
    ("MaxUnpool", 3, {2}),
    ("Col2Im", 3, {1, 2}),
    ("Reshape", 2, set()),
    ("Add", 2, set()),
]


@pytest.mark.parametrize(("operator", "count", "shaping"), SHAPED, ids=[case[0] for case in SHAPED])
def test_no_size_follows_from_a_value(operator: str, count: int, shaping: set[int]) -> None:
    for at in range(count):
        inputs = ["c"] * count
        inputs[at] = "x"
        said = flat(helper.make_node(operator, inputs, ["z"], name="n"), values=("c",))
        wrong = [f"{operator} 'n' makes a tensor whose size follows from values of a request"]
        assert said == (wrong if at in shaping else []), at
    assert flat(helper.make_node(operator, ["c"] * count, ["z"]), values=("c",)) == []


def test_values_are_followed_but_not_through_a_shape() -> None:
    def sized(*before: object) -> list[str]:
        return flat(*before, helper.make_node("Expand", ["c", "s"], ["z"]), values=("c",))

    follows = ["Expand '' makes a tensor whose size follows from values of a request"]
    assert sized(helper.make_node("Tanh", ["x"], ["s"])) == follows
    assert sized(helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Add", ["c", "t"], ["s"])) == follows
    assert sized(helper.make_node("Split", ["x"], ["", "s"])) == follows
    assert sized(helper.make_node("Shape", ["x"], ["s"])) == []
    assert sized(helper.make_node("Size", ["x"], ["s"])) == []
    assert sized(helper.make_node("Add", ["c", "c"], ["s"])) == []


def test_an_input_that_has_a_value_is_no_value_of_a_request() -> None:
    """As ONNX's older versions list their constants."""
    model = onnx.load_model_from_string(toy.graph())
    model.graph.input.append(helper.make_tensor_value_info("W0", TensorProto.FLOAT, [3, 4]))
    model.graph.node.append(helper.make_node("Expand", ["W0", "W0"], ["z"]))
    assert all_of(model) == []


def test_what_is_left_out_of_an_operator_is_taken_from_nowhere() -> None:
    assert flat(helper.make_node("Clip", ["x", "", ""], ["z", ""])) == []
    assert flat(helper.make_node("Clip", ["x", "", "y"], ["z"])) == ["Clip '' takes 'y', which nothing before it makes"]
    assert flat(helper.make_node("Split", ["x"], ["z", "z"])) == []  # the runtime says so
    assert flat(helper.make_node("Tanh", ["x"], ["x"])) == ["'x' is made twice"]
    assert flat(helper.make_node("Split", ["x"], ["c", "x"]), values=("c",)) == ["'c' is made twice"]


def test_names_are_told_no_longer_than_needed() -> None:
    long = "n" * 100
    cut = "n" * 80
    assert flat(helper.make_node(long, ["x"], ["z"])) == [f"operator '{cut}' is none that is known here"]
    assert flat(helper.make_node("Tanh", [long], ["z"], name=long)) == [
        f"Tanh '{cut}' takes '{cut}', which nothing before it makes"
    ]
    assert flat(helper.make_node("Tanh", ["x"], [long]), helper.make_node("Tanh", ["x"], [long])) == [
        f"'{cut}' is made twice"
    ]
    ranged = helper.make_node(long, [long], ["z"])
    assert flat(ranged)[-1] == f"{cut} '' takes '{cut}', which nothing before it makes"


def chain(count: int) -> list[object]:
    names = ["x", *(f"t{at}" for at in range(count))]
    return [helper.make_node("Tanh", [names[at]], [names[at + 1]]) for at in range(count)]


def test_as_many_operators_follow_one_another_as_are_allowed() -> None:
    assert flat(*chain(20_000)) == []
    assert flat(*chain(20_001)) == ["more than 20000 operators follow one another"]


def test_depth_is_that_of_the_longest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "DEPTH", 3)
    beside = [helper.make_node("Constant", [], ["k"]), helper.make_node("Tanh", ["x"], ["w"])]
    assert flat(*chain(3), *beside) == []
    assert flat(*chain(2), *beside, helper.make_node("Add", ["w", "t1"], ["z"])) == []
    deep = ["more than 3 operators follow one another"]
    assert flat(*chain(3), *beside, helper.make_node("Add", ["w", "t2"], ["z"])) == deep
    assert flat(*chain(3), *beside, helper.make_node("Add", ["t2", "w"], ["z"])) == deep


@pytest.mark.parametrize(("field", "count"), [("initializer", 0), ("node", 1)])
def test_as_many_tensors_and_operators_as_are_allowed(field: str, count: int) -> None:
    model = onnx.load_model_from_string(toy.graph())
    listed = getattr(model.graph, field)
    listed.extend([type(listed[0])()] * (100_000 - len(listed)))
    others = len(model.graph.initializer if count else model.graph.node)
    assert not any("are more than" in fault for fault in all_of(model))
    listed.add()
    numbers = f"100001 operators and {others}" if count else f"{others} operators and 100001"
    assert f"{numbers} tensors are more than 100000 and 100000{RELAXED}" in all_of(model)


@pytest.mark.parametrize(
    ("version", "opset", "said"),
    [
        (3, 7, []),
        (14, 28, []),
        (2, 7, ["it has IR version 2, expected 3 to 14"]),
        (15, 28, ["it has IR version 15, expected 3 to 14"]),
        (3, 6, ["it has opset 6, expected 7 to 28"]),
        (14, 29, ["it has opset 29, expected 7 to 28"]),
    ],
)
def test_versions_at_their_bounds(version: int, opset: int, said: list[str]) -> None:
    for domain in ("", "ai.onnx"):
        model = onnx.load_model_from_string(toy.graph())
        model.ir_version = version
        model.opset_import[0].CopyFrom(helper.make_opsetid(domain, opset))
        model.opset_import.add(domain="ai.onnx.ml", version=99)  # of no operator here
        assert all_of(model) == [fault + RELAXED for fault in said]


def test_steps_of_a_training_are_no_part_of_a_graph_that_is_served() -> None:
    model = onnx.load_model_from_string(toy.graph())
    model.training_info.add()
    assert all_of(model) == [f"it has functions or training steps of its own{RELAXED}"]


@pytest.mark.parametrize("field", ["g", "graphs", "sparse_tensor", "sparse_tensors", "ref_attr_name"])
def test_attributes_hold_numbers_and_tensors_and_nothing_else(field: str) -> None:
    """A graph with a fault of its own: that is found, and that it stands there."""
    tensor = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[2])
    model = onnx.load_model_from_string(toy.graph())
    attribute = onnx.AttributeProto(name="a")
    if field == "ref_attr_name":
        attribute.ref_attr_name = "b"
    elif field == "g":
        attribute.g.initializer.append(tensor)
    elif field == "graphs":
        attribute.graphs.add().initializer.append(tensor)
    elif field == "sparse_tensor":
        attribute.sparse_tensor.values.CopyFrom(tensor)
    else:
        attribute.sparse_tensors.add().indices.CopyFrom(tensor)
    model.graph.node[0].attribute.append(attribute)
    inside = [] if field == "ref_attr_name" else ["tensor 's' has 0 numbers, its shape says 2"]
    name = model.graph.node[0].op_type
    assert all_of(model) == [f"{name} '' has graphs, sparse tensors or references of its own{RELAXED}", *inside]
    assert all_of(model, strict=False) == inside
