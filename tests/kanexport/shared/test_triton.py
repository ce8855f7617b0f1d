"""Tests of `kanexport/shared/triton.py`, with the parser of the server."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("kanserve")

from google.protobuf import text_format

from kanexport.bundle.repository import triton_config
from kanexport.shared import manifest as manifests
from kanexport.shared import triton
from kanexport.shared.manifest import Manifest
from kanexport.shared.triton import BATCHED, SEPARATE, SINGLE, TritonOptions
from kanserve.pb import model_config_pb2 as pb
from kanserve.repository import pbtxt
from tests.support import toy_model


def manifest(root: Path, sources: int, destinations: int, positions: tuple[int, ...], size: int) -> Manifest:
    toy_model.write(root)
    toy = manifests.load(root / "toy" / "1")
    layer = dataclasses.replace(toy.layers[0], sources=sources, destinations=destinations, positions=positions)
    entry = manifests.FileEntry(path=manifests.MODEL_FILE, size=size, sha256="")
    return dataclasses.replace(toy, layers=(layer,), files=(entry,))


@pytest.mark.parametrize(
    ("sources", "destinations", "positions", "size", "wanted"),
    [
        (4, 8, (), 10_000, BATCHED),
        (10, 100, (), 10_000, BATCHED),
        (10, 100, (2,), 10_000, SEPARATE),
        (784, 64, (), 10_000, SEPARATE),
        (4, 8, (), triton.LARGE + 1, SINGLE),
    ],
)
def test_options_follow_the_size(
    tmp_path: Path, sources: int, destinations: int, positions: tuple[int, ...], size: int, wanted: TritonOptions
) -> None:
    item = manifest(tmp_path, sources, destinations, positions, size)
    assert triton.choose(item) is wanted
    message = text_format.Parse(triton_config(item).decode(), pb.ModelConfig())
    assert (message.name, message.backend, message.max_batch_size) == ("toy", "onnxruntime", item.max_batch_size)
    assert message.version_policy.HasField("all")
    assert message.HasField("dynamic_batching") is wanted.batching
    assert [(group.name, group.count) for group in message.instance_group] == [(wanted.name, wanted.instances)]


@pytest.mark.parametrize("options", triton.ALL)
def test_unchanged_options_have_no_effect_on_the_server(options: TritonOptions) -> None:
    assert pbtxt.read(options.text().encode()) == pbtxt.SILENT
