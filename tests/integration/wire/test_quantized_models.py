"""Quantized versions on a server: verified at load, marked APPROXIMATE, and deterministic."""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton

from kanexport.pipeline import Request, export
from kanexport.quantization.quantize import QuantizationOptions
from kanexport.shared import manifest as manifests
from kanserve.client.sync import Client
from kanserve.errors import LoadError, LoadReason
from kanserve.models import admission
from kanserve.repository import layout
from kanserve.repository.validation import check_manifest
from tests.support import http_client
from tests.support.command_line import checkpoint
from tests.support.server_process import Server

ASKED = {
    "exact": QuantizationOptions(),
    "half": QuantizationOptions("fp16-weights"),
    "int8": QuantizationOptions("int8"),
}
ROWS = np.random.default_rng(0).uniform(-1, 1, (40, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One network in every precision, called after it."""
    root = tmp_path_factory.mktemp("fewer")
    path = checkpoint(root / "m.safetensors", (6, 8, 3))
    for name, requested in ASKED.items():
        export(Request(path=path, repository=root / "models", name=name, quantization=requested))
    return root / "models"


served = http_client.served(models="models")


def test_outputs_are_as_near_as_the_manifest_says_and_always_the_same(served: Server, models: Path) -> None:
    exact = served.infer(ROWS, "exact")
    for name in ("half", "int8"):
        result = served.infer(ROWS, name)
        error = manifests.load(models / name / "1").approximation.max_error
        assert 0 < np.abs(result - exact).max() <= error * np.abs(exact).max()
        np.testing.assert_array_equal(served.infer(ROWS, name), result)
        alone = np.concatenate([served.infer(ROWS[at : at + 1], name) for at in range(len(ROWS))])
        np.testing.assert_allclose(alone, result, atol=1e-6 * np.abs(result).max())


def test_a_model_says_that_it_is_approximate_wherever_it_is_described(served: Server) -> None:
    with triton.InferenceServerClient(served.address) as other, Client(served.address) as client:
        parameters = {name: other.get_model_config(name).config.parameters for name in ASKED}
        notes = {name: client.describe(name).notes for name in ASKED}
    assert "kan.approximation" not in parameters["exact"]
    assert not any("APPROXIMATE" in note for note in notes["exact"])
    for name in ("half", "int8"):
        reported = parameters[name]["kan.approximation"].string_value
        assert reported.startswith("APPROXIMATE, as requested")
        assert notes[name][0] == reported
        assert any(note.startswith("edges, curves and explanations use the rounded") for note in notes[name])


@pytest.mark.parametrize(("name", "most"), [("half", 1e-5), ("int8", 5e-2)])
def test_explanations_of_what_is_served_tell_how_far_they_miss(served: Server, name: str, most: float) -> None:
    with Client(served.address) as client:
        explained = client.explain(client.describe(name), ROWS[:4], outputs=[0])
    scale = np.abs(served.infer(ROWS, name)).max()
    assert np.abs(explained.completeness_error).max() <= most * scale


def _damaged(models: Path, root: Path) -> Path:
    """The version in bytes with its codes turned round, and a manifest whose hashes know that."""
    folder = root / "int8" / "1"
    shutil.copytree(models / "int8" / "1", folder)
    model = onnx.load(folder / "model.onnx")
    codes = next(item for item in model.graph.initializer if item.data_type == onnx.TensorProto.INT8)
    codes.raw_data = codes.raw_data[::-1]
    data = model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    result = manifests.load(folder)
    facts = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files = (dataclasses.replace(item, **facts) if item.path == "model.onnx" else item for item in result.files)
    (folder / manifests.FILE_NAME).write_bytes(manifests.dumps(dataclasses.replace(result, files=tuple(files))))
    return root


def test_other_codes_than_those_that_were_proved_are_not_served(models: Path, tmp_path: Path) -> None:
    (whole,) = (item for item in layout.scan(models, plain_onnx=False, hard_links=True) if item.name == "int8")
    admission.load(whole, layout.load(whole, 2**30))
    (damaged,) = layout.scan(_damaged(models, tmp_path), plain_onnx=False, hard_links=True)
    with pytest.raises(LoadError, match="reference outputs differ") as result:
        admission.load(damaged, layout.load(damaged, 2**30))
    assert (result.value.reason, result.value.code) == (LoadReason.REFERENCE, "reference-outputs-differ")


IMPOSSIBLE = (
    *({"quantize": "int2"}, {"quantize": ""}, {"error": 0.9}),
    *({"max_error": 1e300}, {"max_error": -1.0}, {"max_error": 0.0}),
)


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_a_manifest_that_says_what_cannot_be_is_refused(models: Path, change: dict[str, Any]) -> None:
    result = manifests.load(models / "int8" / "1")
    check_manifest(result)
    with pytest.raises(LoadError, match="approximation"):
        check_manifest(dataclasses.replace(result, approximation=dataclasses.replace(result.approximation, **change)))
