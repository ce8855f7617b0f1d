"""What others build on: changing any of this is a decision, not an accident."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from kanexport import manifest, pipeline
from kanexport.packing.publish import Result
from kanserve.pb import grpc_service_pb2, kan_pb2

OLD_MANIFESTS = sorted((Path(__file__).parent / "golden" / "manifest" / "v1").glob("*.json"))


def test_the_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "kanserve", "--help"], capture_output=True, text=True, check=True)
    for command in ("export", "serve", "infer", "edges", "formula", "models", "health"):
        assert f"    {command} " in done.stdout


def test_the_python_door() -> None:
    fields = {field.name for field in dataclasses.fields(pipeline.Request)}
    assert {"path", "repository", "name", "version", "family", "options", "dtype", "tolerance", "force"} <= fields
    assert {field.name for field in dataclasses.fields(Result)} == {"directory", "manifest"}


def test_the_door_for_modules() -> None:
    pytest.importorskip("torch")
    import kanexport

    names = list(inspect.signature(kanexport.export).parameters)
    assert names[:2] == ["module", "example_inputs"]
    assert {"name", "repository", "version", "options", "dtype", "tolerance", "force"} <= set(names)
    with pytest.raises(AttributeError, match="has no attribute 'import_'"):
        kanexport.import_  # noqa: B018 - the access is what is tried


def test_the_services() -> None:
    kan = kan_pb2.DESCRIPTOR.services_by_name["KanService"]
    assert [method.name for method in kan.methods] == ["DescribeModel", "QueryEdges"]
    triton = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert triton.full_name == "inference.GRPCInferenceService"


@pytest.mark.parametrize("path", OLD_MANIFESTS, ids=lambda path: path.stem)
def test_manifests_of_format_one_load_for_ever(path: Path) -> None:
    loaded = manifest.loads(path.read_bytes())
    assert loaded.format == 1
    assert loaded.layers
    assert manifest.loads(manifest.dumps(loaded)) == loaded


def test_there_are_old_manifests_to_load() -> None:
    assert len(OLD_MANIFESTS) >= 2
