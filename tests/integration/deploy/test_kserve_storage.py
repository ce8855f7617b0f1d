"""KServe's storage initializer copies models from a real S3 server and a real registry, and kanserve serves them.

The S3 server is SeaweedFS, the registry is docker-registry. Both listen on loopback.
"""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support import compose_stack, model_stores, programs, toy_model
from tests.support.server_process import serving
from tests.support.tiers import full

pytestmark = full("peer")

EXAMPLES = compose_stack.ROOT / "service" / "deploy" / "kserve"
NAME = "iris"
ROWS = [[0.5, -1.0, 2.0]]
COPY = "import sys; from kserve_storage import Storage; Storage.download(*sys.argv[1:])"
UPLOAD = """
import os, pathlib, sys, boto3
client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
client.create_bucket(Bucket="models")
root = pathlib.Path(sys.argv[1])
for path in root.rglob("*"):
    if path.is_file():
        client.upload_file(str(path), "models", str(path.relative_to(root)))
"""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two versions of the model `hello`."""
    folder = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        toy_model.write(folder, "hello", version=version)
    return folder


def initialize(uri: str, target: Path, **environment: str) -> None:
    """Copy a model as the init container of KServe does."""
    command = [programs.interpreter("kserve_storage"), "-c", COPY, uri, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-2000:]


def predicted(folder: Path) -> list[list[float]]:
    """The outputs that a server with the name of an InferenceService gives for ROWS over the V1 route."""
    with serving(folder, transport="asgi", model_name=NAME) as server:
        url = f"http://{server.address}/v1/models/{NAME}:predict"
        body = json.dumps({"instances": ROWS}).encode()
        with urllib.request.urlopen(url, data=body, timeout=60) as response:
            result: list[list[float]] = json.load(response)["predictions"]
            return result


@pytest.fixture(scope="module")
def expected(models: Path) -> list[list[float]]:
    """The outputs of a server that has the original files."""
    found = predicted(models / "hello")
    np.testing.assert_allclose(found, toy_model.outputs(np.array(ROWS)), rtol=1e-6)
    return found


@pytest.fixture(scope="module")
def bucket(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment for the initializer to read the bucket `models` of an S3 server that requires credentials."""
    python = programs.interpreter("kserve_storage")
    with model_stores.s3_server(tmp_path_factory.mktemp("s3")) as variables:
        upload = [python, "-c", UPLOAD, str(models)]

        def uploaded() -> bool:
            done = subprocess.run(upload, capture_output=True, timeout=60, env=os.environ | variables)
            return done.returncode == 0

        compose_stack.until(uploaded, "the bucket")
        yield variables


@pytest.mark.parametrize("path", ["hello", "hello/2", ""])
def test_it_serves_what_the_initializer_copies_from_a_bucket(
    bucket: dict[str, str], models: Path, expected: list[list[float]], tmp_path: Path, path: str
) -> None:
    uri = yaml.safe_load((EXAMPLES / "inferenceservice-s3.yaml").read_text())["spec"]["predictor"]["model"][
        "storageUri"
    ]
    assert uri == "s3://models/hello"
    initialize(f"s3://models/{path}".rstrip("/"), tmp_path / "mnt", **bucket)
    copied = {str(file.relative_to(tmp_path / "mnt")): file.read_bytes() for file in files(tmp_path / "mnt")}
    assert copied == {str(file.relative_to(models / path)): file.read_bytes() for file in files(models / path)}
    assert predicted(tmp_path / "mnt") == expected


def test_wrong_credentials_copy_nothing(bucket: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"403|Forbidden|SignatureDoesNotMatch"):
        initialize("s3://models/hello", tmp_path / "mnt", **bucket | {"AWS_SECRET_ACCESS_KEY": "another"})


def files(folder: Path) -> list[Path]:
    """All files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an OCI registry."""
    with model_stores.registry(tmp_path) as address:
        yield address


def push(address: str, name: str, tag: str, layer: bytes) -> None:
    """Push an image of one layer, by the API of registries (OCI distribution specification 1.1)."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    config_type = "application/vnd.oci.image.config.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(address, name, config, config_type),
        "layers": [blob(address, name, layer, LAYER)],
    }
    url = f"http://{address}/v2/{name}/manifests/{tag}"
    send(url, "PUT", json.dumps(manifest).encode(), MANIFEST)


def blob(address: str, name: str, data: bytes, media_type: str) -> dict[str, Any]:
    """Upload a blob. Returns its descriptor."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    place = send(f"http://{address}/v2/{name}/blobs/uploads/", "POST", b"", "application/octet-stream")
    send(f"{place}&digest={digest}", "PUT", data, "application/octet-stream")
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def send(url: str, method: str, data: bytes, media_type: str) -> str:
    """Send a request. Returns the header Location of the response."""
    request = urllib.request.Request(url, data, {"Content-Type": media_type}, method=method)
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(response.headers.get("Location", ""))


def test_it_serves_what_the_initializer_fetches_from_a_registry(
    models: Path, expected: list[list[float]], registry: str, tmp_path: Path
) -> None:
    """The guide says to copy the content of the folder `hello` to `/models` of the image."""
    programs.interpreter("kserve_storage")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w:gz") as archive:
        archive.add(models / "hello", "models")
    push(registry, "models/hello", "1", layer.getvalue())
    # Only this registry is plain HTTP; others need TLS.
    initialize(f"oci://{registry}/models/hello:1", tmp_path / "mnt", KSERVE_OCI_INSECURE_REGISTRY="true")
    assert [file.read_bytes() for file in files(tmp_path / "mnt")] == [
        file.read_bytes() for file in files(models / "hello")
    ]
    assert predicted(tmp_path / "mnt") == expected
