"""The committed protocol code matches `proto/` and stays out of protobuf's default pool."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kanserve.pb import __main__ as generator
from kanserve.pb import grpc_service_pb2, kan_pb2, model_config_pb2, pool
from tests.support.tiers import full


def test_sources_and_results_are_those_recorded() -> None:
    assert generator.stale() == []


def test_a_changed_source_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in generator.FILES:
        (tmp_path / name).write_bytes((generator.PROTO / name).read_bytes())
    with (tmp_path / "kan.proto").open("a") as file:
        file.write("// one more line\n")
    monkeypatch.setattr(generator, "PROTO", tmp_path)
    assert generator.stale() == ["proto/kan.proto changed since service/kanserve/pb was generated: run `make proto`"]


@pytest.mark.skipif(not generator.have_protoc(), reason="grpcio-tools is not installed; `make proto` has it")
def test_a_fresh_generation_gives_the_same() -> None:
    assert generator.differences() == []


def test_every_message_of_the_stubs_is_there() -> None:
    for module in (grpc_service_pb2, kan_pb2, model_config_pb2):
        file = pool().FindFileByName(module.DESCRIPTOR.name)
        assert file.message_types_by_name
        for name in file.message_types_by_name:
            assert getattr(module, name)().SerializeToString() == b""
    assert model_config_pb2.TYPE_FP32 == model_config_pb2.DataType.Value("TYPE_FP32") == 11


@full("peer")
def test_tritonclient_lives_in_the_same_process() -> None:
    code = """
from tritonclient.grpc import service_pb2 as theirs
from kanserve.pb import grpc_service_pb2 as ours
sent = ours.ModelInferRequest(model_name="m")
sent.parameters["p"].uint64_param = 7
got = theirs.ModelInferRequest.FromString(sent.SerializeToString())
assert got.parameters["p"].uint64_param == 7
assert type(got) is not type(sent)
"""
    for order in (code, "from kanserve.pb import grpc_service_pb2\n" + code):
        done = subprocess.run([sys.executable, "-c", order], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
