"""What others build on: changing any of this is a decision, not an accident."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kanexport import pipeline
from kanexport.bundle.publish import Result
from kanexport.contract import manifest
from kanexport.contract.cli.console import Exit
from kanserve.pb import grpc_service_pb2, kan_pb2

CALLS = {
    *(
        "close",
        "coverage",
        "curves",
        "describe",
        "drift",
        "edges",
        "estimate",
        "explain",
        "health",
        "index",
        "infer",
        "model",
        "ready",
    ),
    *("reset_statistics", "scores", "statistics", "watch_statistics", "within"),
}
OLD_MANIFESTS = sorted((Path(__file__).parent / "golden" / "manifest").glob("v*/*.json"))


def test_the_commands() -> None:
    done = subprocess.run([sys.executable, "-m", "kanserve", "--help"], capture_output=True, text=True, check=True)
    for command in (
        "export",
        "copy",
        "serve",
        "bench",
        "infer",
        "edges",
        "formula",
        "models",
        "health",
        "promote",
        "rollback",
        "shadow",
        "completion",
    ):
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


def test_the_clients_and_their_errors() -> None:
    import kanserve

    for client in (kanserve.Client, kanserve.AsyncClient):
        assert list(inspect.signature(client).parameters) == [
            *("url", "timeout", "retries", "ca", "cert", "key", "server_name", "token", "token_in_clear")
        ]
        assert {name for name, _ in inspect.getmembers(client, inspect.isfunction) if not name.startswith("_")} == CALLS
    tree = {
        name: [kind.__name__ for kind in getattr(kanserve, name).__mro__ if kind.__module__.startswith("kanserve.")][1:]
        for name in kanserve.__all__
        if not name.endswith("Client")
    }
    assert tree == {
        "ClientError": [],
        "Refused": ["ClientError"],
        "InvalidInput": ["Refused", "ClientError"],
        "NotFound": ["Refused", "ClientError"],
        "NotAllowed": ["Refused", "ClientError"],
        "TooLarge": ["Refused", "ClientError"],
        "NotSupported": ["Refused", "ClientError"],
        "NoAnswer": ["ClientError"],
        "Unavailable": ["NoAnswer", "ClientError"],
        "Unreachable": ["Unavailable", "NoAnswer", "ClientError"],
        "RateLimited": ["NoAnswer", "ClientError"],
        "DeadlineExceeded": ["NoAnswer", "ClientError"],
        "ServerFailed": ["ClientError"],
    }
    assert kanserve.NotFound("no such model", code="NOT_FOUND").code == "NOT_FOUND"
    with pytest.raises(AttributeError, match="has no attribute 'Clinet'"):
        kanserve.Clinet  # noqa: B018 - the access is what is tried


def test_the_error_document() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kanserve", "infer", "--json"], capture_output=True, text=True, check=False
    )
    assert set(json.loads(done.stdout)["error"]) == {"kind", "message", "hint", "exit_code"}
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0,
        "FAILED": 1,
        "WRONG": 2,
        "UNPROVED": 3,
        "PARTLY": 4,
        "INTERRUPTED": 130,
    }


def test_the_services() -> None:
    kan = kan_pb2.DESCRIPTOR.services_by_name["KanService"]
    assert [method.name for method in kan.methods] == [
        *(
            "DescribeModel",
            "QueryEdges",
            "StreamEdges",
            "GetCurves",
            "Explain",
            "EdgeScores",
            "GetStatistics",
            "WatchStatistics",
            "ResetStatistics",
            "PromoteModel",
            "RollbackModel",
            "ShadowModel",
        )
    ]
    triton = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert triton.full_name == "inference.GRPCInferenceService"


@pytest.mark.parametrize("path", OLD_MANIFESTS, ids=lambda path: path.stem)
def test_manifests_of_older_formats_load_for_ever(path: Path) -> None:
    loaded = manifest.loads(path.read_bytes())
    assert path.parent.name == f"v{loaded.format}"
    assert loaded.claim == manifest.VERIFICATION_BASES[manifest.READING]  # never more than was done
    assert loaded.layers
    assert manifest.loads(manifest.dumps(loaded)) == loaded


def test_there_are_old_manifests_to_load() -> None:
    assert {path.parent.name for path in OLD_MANIFESTS} == {f"v{old}" for old in range(1, manifest.FORMAT)}
