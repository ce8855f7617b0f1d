"""The classification extension, tested with Triton's clients over both protocols."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from onnx import TensorProto, helper

from tests.integration.wire.test_datatypes import identity
from tests.support import toy_model
from tests.support.server_process import SHARED, Server, serving

KINDS = {
    name: getattr(TensorProto, name) for name in ("BOOL", "UINT8", "INT64", "FLOAT16", "FLOAT", "DOUBLE", "STRING")
}


def folded() -> bytes:
    """x [B, 6] -> y [B, 2, 3]."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [3], [-1, 2, 3])
    supplied = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 6])
    wanted = helper.make_tensor_value_info("y0", TensorProto.FLOAT, ["B", 2, 3])
    graph = helper.make_graph([helper.make_node("Reshape", ["x", "shape"], ["y0"])], "g", [supplied], [wanted], [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.fixture(scope="module", params=SHARED)
def served(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("classes")
    toy_model.write(root)
    models = {name.lower(): identity(kind, ["B", 5]) for name, kind in KINDS.items()}
    models |= {"alone": identity(TensorProto.FLOAT, [5]), "wide": identity(TensorProto.FLOAT, ["B", 3000])}
    toy_model.write_graphs(root, models | {"folded": folded()})
    (root / "float" / "config.pbtxt").write_text('output [ { name: "y0" label_filename: "classes.txt" } ]')
    (root / "float" / "classes.txt").write_text("setosa\n\nçok büyük\n")  # fewer than there are values
    with serving(root, transport=request.param, plain_onnx=True, max_input_strings=100) as running:
        yield running


def ask(
    server: Server, model: str, rows: np.ndarray, classes: int, output: str = "y0", kind: str = "FP32"
) -> np.ndarray:
    tensor = triton.InferInput("x", list(rows.shape), kind)
    tensor.set_data_from_numpy(rows)
    with triton.InferenceServerClient(server.address) as client:
        response = client.infer(model, [tensor], outputs=[triton.InferRequestedOutput(output, class_count=classes)])
        (described,) = response.get_response().outputs
        assert described.datatype == "BYTES"
        result = response.as_numpy(output)
        assert list(result.shape) == list(described.shape)
        return result


def test_the_largest_values_and_where_they_are(served: Server) -> None:
    rows = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    for _ in range(2):  # a head that was seen before
        result = ask(served, "toy", rows, 1, "y")
        values = toy_model.outputs(rows)
        assert result.tolist() == [[f"{row.max():f}:{row.argmax()}".encode()] for row in values]
        assert [len(row) for row in ask(served, "toy", rows, 99, "y")] == [2] * 4
    np.testing.assert_allclose(served.infer(rows), toy_model.outputs(rows), rtol=1e-5)


UNORDERED = np.array([[1, 3, np.nan, 3, -np.inf], [np.inf, 0.25, 1e9, -0.0, 0]], np.float32)
LABELED = [
    [b"3.000000:1", b"3.000000:3", b"1.000000:0:setosa", b"-inf:4", "nan:2:çok büyük".encode()],
    [b"inf:0:setosa", "1000000000.000000:2:çok büyük".encode(), b"0.250000:1", b"-0.000000:3", b"0.000000:4"],
]
U8 = np.array([[0, 255, 0, 7, 255]], np.uint8)
I64 = np.array([[0, 2**63 - 1, -(2**63), 7, 2**63 - 1]])


@pytest.mark.parametrize(
    ("model", "kind", "rows", "expected"),
    [
        ("float", "FP32", UNORDERED, LABELED),
        ("uint8", "UINT8", U8, [[b"255:1", b"255:4", b"7:3"]]),
        ("int64", "INT64", I64, [[b"%d:%d" % (2**63 - 1, at) for at in (1, 4)] + [b"7:3"]]),
        ("folded", "FP32", np.array([[1, 5, 2, 9, 3, 4]], np.float32), [[b"9.000000:3", b"5.000000:1"]]),
        ("alone", "FP32", np.array([1, 5, 2, 9, 3], np.float32), [b"9.000000:3", b"5.000000:1"]),
    ],
)
def test_classes_are_in_the_order_of_their_values(
    served: Server, model: str, kind: str, rows: np.ndarray, expected: list[Any]
) -> None:
    """Equal values keep their order, NaN is the last, and a row of several dimensions is one list."""
    assert ask(served, model, rows, np.shape(expected)[-1], kind=kind).tolist() == expected


def test_no_rows_have_no_classes(served: Server) -> None:
    tensor = triton.InferInput("x", [0, 5], "FP32")
    tensor.set_data_from_numpy(np.zeros((0, 5), np.float32))
    with triton.InferenceServerClient(served.address) as client:
        response = client.infer("float", [tensor], outputs=[triton.InferRequestedOutput("y0", class_count=3)])
    (output,) = response.get_response().outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [0, 3])


@pytest.mark.parametrize(
    ("model", "kind", "rows"),
    [
        ("bool", "BOOL", np.zeros((1, 5), bool)),
        ("float16", "FP16", np.zeros((1, 5), np.float16)),
        ("string", "BYTES", np.full((1, 5), b"a", object)),
    ],
)
def test_what_has_no_order_has_no_classes(served: Server, model: str, kind: str, rows: np.ndarray) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        ask(served, model, rows, 1, kind=kind)
    assert caught.value.message() == f"class result not available for output due to unsupported type '{kind}'"


def test_classes_are_bounded_in_number(served: Server) -> None:
    rows = np.arange(30000, dtype=np.float32).reshape(10, 3000)  # sorted off the loop
    assert ask(served, "wide", rows, 10)[9, 0] == b"29999.000000:2999"
    with pytest.raises(triton.InferenceServerException, match="has 110 classes, expected at most 100"):
        ask(served, "wide", rows, 11)


@pytest.mark.parametrize("served", ["asgi"], indirect=True)
@pytest.mark.parametrize("binary", [True, False])
def test_the_same_over_http(served: Server, binary: bool) -> None:
    tensor = triton_http.InferInput("x", [1, 5], "FP32")
    tensor.set_data_from_numpy(np.array([[1, 5, 2, 9, 3]], np.float32), binary_data=binary)
    wanted = triton_http.InferRequestedOutput("y0", binary_data=binary, class_count=2)
    with triton_http.InferenceServerClient(served.http) as client:
        result = client.infer("float", [tensor], outputs=[wanted]).as_numpy("y0")
    assert [item if isinstance(item, bytes) else item.encode() for item in result.ravel()] == [
        b"9.000000:3",
        b"5.000000:1",
    ]
