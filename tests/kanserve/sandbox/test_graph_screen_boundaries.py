"""Each rule of the structural graph check at its exact limit."""

import onnx
import pytest
from onnx import TensorProto, helper

from kanserve.sandbox import graph_screen
from tests.kanserve.sandbox.test_graph_screen import all_of
from tests.support import toy_model

RELAXED = " (graph_allowlist = relaxed allows it)"


def flat(*nodes: onnx.NodeProto, values: tuple[str, ...] = ()) -> list[str]:
    """The faults of a graph of these operators over the input `x` and the constants `values`."""
    supplied = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])
    constants = [TensorProto(name=name, data_type=TensorProto.FLOAT, float_data=[1]) for name in values]
    for constant in constants:
        constant.dims.append(1)
    graph = helper.make_graph(list(nodes), "flat", [supplied], [], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return [fault.removesuffix(RELAXED) for fault in all_of(model)]


SHAPED = [  # by ONNX's description of each operator: where the tensor comes that says how large its output is
    ("ConstantOfShape", 1, {0}), ("BlackmanWindow", 1, {0}), ("HammingWindow", 1, {0}), ("HannWindow", 1, {0}),
    ("Expand", 2, {1}), ("Tile", 2, {1}), ("Pad", 4, {1}), ("OneHot", 3, {1}), ("CenterCropPad", 2, {1}),
    ("AffineGrid", 2, {1}), ("Upsample", 2, {1}), ("DFT", 3, {1}), ("Range", 3, {0, 1, 2}),
    ("MelWeightMatrix", 5, {0, 1, 2}), ("Resize", 4, {2, 3}), ("MaxUnpool", 3, {2}), ("Col2Im", 3, {1, 2}),
    ("Reshape", 2, set()), ("Add", 2, set()),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "count", "shaping"), SHAPED, ids=[case[0] for case in SHAPED])
def test_no_size_follows_from_a_value(operator: str, count: int, shaping: set[int]) -> None:
    for at in range(count):
        inputs = ["c"] * count
        inputs[at] = "x"
        said = flat(helper.make_node(operator, inputs, ["z"], name="n"), values=("c",))
        wrong = [f"{operator} 'n' makes a tensor whose size depends on values of a request"]
        assert said == (wrong if at in shaping else []), at
    assert flat(helper.make_node(operator, ["c"] * count, ["z"]), values=("c",)) == []


def test_values_are_followed_but_not_through_a_shape() -> None:
    def sized(*before: onnx.NodeProto) -> list[str]:
        return flat(*before, helper.make_node("Expand", ["c", "s"], ["z"]), values=("c",))

    follows = ["Expand '' makes a tensor whose size depends on values of a request"]
    assert sized(helper.make_node("Tanh", ["x"], ["s"])) == follows
    assert sized(helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Add", ["c", "t"], ["s"])) == follows
    assert sized(helper.make_node("Split", ["x"], ["", "s"])) == follows
    assert sized(helper.make_node("Shape", ["x"], ["s"])) == []
    assert sized(helper.make_node("Size", ["x"], ["s"])) == []
    assert sized(helper.make_node("Add", ["c", "c"], ["s"])) == []


def test_an_input_that_has_a_value_is_no_value_of_a_request() -> None:
    """As ONNX's older versions list their constants."""
    model = onnx.load_model_from_string(toy_model.graph())
    model.graph.input.append(helper.make_tensor_value_info("W0", TensorProto.FLOAT, [3, 4]))
    model.graph.node.append(helper.make_node("Expand", ["W0", "W0"], ["z"]))
    assert all_of(model) == []


def test_what_is_left_out_of_an_operator_is_taken_from_nowhere() -> None:
    assert flat(helper.make_node("Clip", ["x", "", ""], ["z", ""])) == []
    assert flat(helper.make_node("Clip", ["x", "", "y"], ["z"])) == [
        "Clip '' uses 'y', which no operator before it makes"
    ]
    assert flat(helper.make_node("Split", ["x"], ["z", "z"])) == []  # the runtime says so
    assert flat(helper.make_node("Tanh", ["x"], ["x"])) == ["'x' is defined twice"]
    assert flat(helper.make_node("Split", ["x"], ["c", "x"]), values=("c",)) == ["'c' is defined twice"]


def test_names_are_told_no_longer_than_needed() -> None:
    long = "n" * 100
    cut = "n" * 80
    assert flat(helper.make_node(long, ["x"], ["z"])) == [
        f"operator '{cut}' is not in the list of known ONNX operators"
    ]
    assert flat(helper.make_node("Tanh", [long], ["z"], name=long)) == [
        f"Tanh '{cut}' uses '{cut}', which no operator before it makes"
    ]
    assert flat(helper.make_node("Tanh", ["x"], [long]), helper.make_node("Tanh", ["x"], [long])) == [
        f"'{cut}' is defined twice"
    ]
    ranged = helper.make_node(long, [long], ["z"])
    assert flat(ranged)[-1] == f"{cut} '' uses '{cut}', which no operator before it makes"


def chain(count: int) -> list[onnx.NodeProto]:
    names = ["x", *(f"t{at}" for at in range(count))]
    return [
        onnx.NodeProto(op_type="Tanh", input=names[at : at + 1], output=names[at + 1 : at + 2]) for at in range(count)
    ]


def test_depth_is_that_of_the_longest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_screen, "DEPTH", 3)
    beside = [helper.make_node("Constant", [], ["k"]), helper.make_node("Tanh", ["x"], ["w"])]
    assert flat(*chain(3), *beside) == []
    assert flat(*chain(2), *beside, helper.make_node("Add", ["w", "t1"], ["z"])) == []
    deep = ["it has a chain of more than 3 operators"]
    assert flat(*chain(3), *beside, helper.make_node("Add", ["w", "t2"], ["z"])) == deep
    assert flat(*chain(3), *beside, helper.make_node("Add", ["t2", "w"], ["z"])) == deep


def test_versions_at_their_bounds() -> None:
    for version, opset, said in (
        (3, 7, []),
        (14, 28, []),
        (2, 7, ["it has IR version 2, expected 3 to 14"]),
        (15, 28, ["it has IR version 15, expected 3 to 14"]),
        (3, 6, ["it has opset 6, expected 7 to 28"]),
        (14, 29, ["it has opset 29, expected 7 to 28"]),
    ):
        for domain in ("", "ai.onnx"):
            model = onnx.load_model_from_string(toy_model.graph())
            model.ir_version = version
            model.opset_import[0].CopyFrom(helper.make_opsetid(domain, opset))
            model.opset_import.add(domain="ai.onnx.ml", version=99)  # of no operator here
            assert all_of(model) == [fault + RELAXED for fault in said]


def test_steps_of_a_training_are_no_part_of_a_graph_that_is_served() -> None:
    model = onnx.load_model_from_string(toy_model.graph())
    model.training_info.add()
    assert all_of(model) == [f"it has custom functions or training steps{RELAXED}"]


@pytest.mark.parametrize("field", ["g", "graphs", "sparse_tensor", "sparse_tensors", "ref_attr_name"])
def test_attributes_hold_numbers_and_tensors_and_nothing_else(field: str) -> None:
    tensor = TensorProto(name="s", data_type=TensorProto.FLOAT, dims=[2])
    model = onnx.load_model_from_string(toy_model.graph())
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
    inside = [] if field == "ref_attr_name" else ["tensor 's' has 0 numbers, expected 2 by its shape"]
    name = model.graph.node[0].op_type
    assert all_of(model) == [f"{name} '' has nested graphs, sparse tensors or references{RELAXED}", *inside]
    assert all_of(model, strict=False) == inside
