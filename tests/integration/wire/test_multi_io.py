"""A served model with several inputs and outputs: every method that names tensors."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from kanserve.client import chunking
from kanserve.client.errors import InvalidInput
from kanserve.client.sync import Client
from kanserve.errors import LoadError
from kanserve.models import admission
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.pb import kan_pb2
from kanserve.repository import layout
from tests.support import chunked
from tests.support.command_line import document, kanserve
from tests.support.http_client import served
from tests.support.server_process import INFERENCE, KAN, Server
from tests.support.tiers import full

pytestmark = full("combination")
torch = pytest.importorskip("torch")

from kanexport.bundle.publish import Target  # noqa: E402 - as above
from kanexport.shared import manifest as manifests  # noqa: E402 - as above
from kanexport.torch_export.convert import convert  # noqa: E402 - as above
from tests.support import torch_modules as several  # noqa: E402 - needs torch

TYPES = {"tokens": "INT64", "mask": "BOOL", "x": "FP32"}


def rows(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {
        "tokens": rng.integers(11, size=(count, 5)),
        "mask": rng.random((count, 5)) < 0.8,
        "x": rng.normal(size=(count, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def module() -> Any:
    torch.manual_seed(0)
    return several.Reader()


@pytest.fixture(scope="module")
def repository(module: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    convert(module, rows(9), Target(repository=folder, name="text", max_batch_size=16), options={})
    return folder


server = served(models="repository")


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as created:
        yield created


def exact(module: Any, feeds: dict[str, np.ndarray]) -> Any:
    with torch.no_grad():
        return module.double().eval()(*(torch.from_numpy(feeds[name]) for name in TYPES))


def request(feeds: dict[str, np.ndarray], *outputs: str) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name="text")
    for name, array in feeds.items():
        message.inputs.add(name=name, datatype=TYPES[name], shape=array.shape)
        message.raw_input_contents.append(array.tobytes())
    for name in outputs:
        message.outputs.add(name=name)
    return message


def test_tensors_in_any_order_and_outputs_as_asked_for(server: Server, module: Any) -> None:
    feeds = rows(4)
    expected = exact(module, feeds)
    turned = {name: feeds[name] for name in ("x", "tokens", "mask")}
    data = server.call(f"{INFERENCE}ModelInfer", request(turned, "best", "logits").SerializeToString())
    response = pb.ModelInferResponse.FromString(data)
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in response.outputs] == [
        ("best", "INT64", [4, 1]),
        ("logits", "FP32", [4, 3]),
    ]
    best, logits = response.raw_output_contents
    np.testing.assert_array_equal(np.frombuffer(best, "<i8"), expected.best.numpy())
    np.testing.assert_allclose(np.frombuffer(logits, "<f4").reshape(4, 3), expected.logits.numpy(), rtol=1e-4)


def test_the_model_is_described_with_all_of_its_tensors(client: Client, server: Server) -> None:
    model, described = client.model("text"), client.describe("text")
    assert [(item.name, item.datatype, item.shape) for item in model.inputs] == [
        ("tokens", "INT64", (-1, 5)),
        ("mask", "BOOL", (-1, 5)),
        ("x", "FP32", (-1, 3)),
    ]
    assert [item.name for item in model.outputs] == ["logits", "hidden", "best"]
    assert (described.inputs, described.outputs) == (model.inputs, model.outputs)
    data = server.call(f"{INFERENCE}ModelConfig", pb.ModelConfigRequest(name="text").SerializeToString())
    config = pb.ModelConfigResponse.FromString(data).config
    assert [(item.name, list(item.dims)) for item in config.output] == [("logits", [3]), ("hidden", [7]), ("best", [1])]
    assert config.parameters["kan.widths"].string_value == "13,5x4,7,11"


def test_edges_of_a_model_with_several_inputs(client: Client, server: Server, module: Any) -> None:
    feeds = rows(7)
    (head,) = chunking.edges(client, client.describe("text"), feeds, layers=["head"])
    np.testing.assert_allclose(head.values.sum(1), exact(module, feeds).logits.numpy(), rtol=1e-3, atol=1e-4)
    (mixed,) = client.edges(client.describe("text"), feeds, layers=["mix"], top_k=2)
    assert mixed.values.shape == (7, 5, 2)
    with pytest.raises(InvalidInput, match="has the inputs tokens, mask, x, but rows of some"):
        chunked.infer(client, client.model("text"), {"tokens": feeds["tokens"]})
    lone = kan_pb2.QueryEdgesRequest(model_name="text", rows=feeds["x"].tobytes(), row_count=7)
    half = kan_pb2.QueryEdgesRequest(model_name="text", row_count=7)
    half.inputs.add(name="x", rows=feeds["x"].tobytes())
    for message, words in (
        (lone, "but the request has rows without a name"),
        (half, "the request has the inputs x, model 'text' has"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            server.call(f"{KAN}QueryEdges", message.SerializeToString())
        assert words in caught.value.details()


def test_the_commands_take_a_file_with_every_input(server: Server, module: Any, tmp_path: Path) -> None:
    feeds, url = rows(20), ("--url", server.address)  # more than a request may have
    path, text = tmp_path / "rows.npz", tmp_path / "rows.json"
    np.savez(path, **feeds)
    text.write_text(json.dumps({name: (array * 1).tolist() for name, array in feeds.items()}))
    response = document(kanserve("infer", "text", "--input", text, "--json", *url))
    np.testing.assert_allclose(response["outputs"]["logits"], exact(module, feeds).logits.numpy(), rtol=1e-3, atol=1e-5)
    assert document(kanserve("edges", "text", "--input", path, "--json", *url))["rows"] == 20
    np.savez(path, tokens=feeds["tokens"] + 0.5, mask=feeds["mask"], x=feeds["x"])
    refused = kanserve("infer", "text", "--input", path, *url)
    assert (refused.returncode, "tokens, value [0, 0]" in refused.stderr) == (2, True), refused.stderr
    np.save(tmp_path / "x.npy", feeds["x"])
    alone = kanserve("infer", "text", "--input", tmp_path / "x.npy", *url)
    assert "x.npy has one array, expected one for each input: tokens, mask, x" in alone.stderr


def test_reference_rows_of_every_output_are_checked(repository: Path, tmp_path: Path) -> None:
    """One output's error must not hide behind another's magnitude: `hidden` is a thousand times `logits`."""
    shutil.copytree(repository, tmp_path / "r")
    path = tmp_path / "r" / "text" / "1" / "manifest.json"
    reported = manifests.loads(path.read_bytes())
    first, *rest = reported.reference.outputs
    reference = dataclasses.replace(reported.reference, outputs=((first[0] + 0.05, *first[1:]), *rest))
    path.write_bytes(manifests.dumps(dataclasses.replace(reported, reference=reference)))
    (version,) = layout.scan(tmp_path / "r", plain_onnx=False)
    with pytest.raises(LoadError, match=r"reference outputs of 'logits' differ by 0\.05") as result:
        admission.load(version, layout.load(version, 2**30))
    assert result.value.code == "reference-outputs-differ"
