"""config.pbtxt from an operator: fields that apply, fields that give a warning, and errors that stop the load."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from kanexport.bundle.repository import triton_config
from kanexport.shared import manifest as manifests
from kanserve.cli import inventory
from kanserve.errors import LoadError, LoadReason
from kanserve.grpc_api import model_codec
from kanserve.pb import grpc_service_pb2 as pb
from kanserve.repository import pbtxt
from kanserve.scheduling.queue import Policy, PriorityLevel
from tests.support import toy_model
from tests.support.bad_requests import not_loaded
from tests.support.server_process import INFERENCE, serving
from tests.support.toy_model import load

EVERYTHING = """
name: "toy"
backend: "onnxruntime"
max_batch_size: 32
version_policy { latest { num_versions: 2 } }
input [ { name: "x" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
dynamic_batching {
  preferred_batch_size: [ 16, 8 ]
  max_queue_delay_microseconds: 1500
  priority_levels: 3
  default_priority_level: 2
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 2000000 max_queue_size: 9 }
  priority_queue_policy { key: 1 value { allow_timeout_override: true } }
}
instance_group [ { count: 2 kind: KIND_CPU }, { } ]
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
"""
USUAL = PriorityLevel(most=9, override=False, delays=True, timeout=2_000_000 / 1e6)


def test_every_field_that_has_a_meaning_takes_effect_and_is_told(tmp_path: Path) -> None:
    model = load(tmp_path, EVERYTHING)
    result = model.serving
    assert model.info.max_batch_size == 32
    levels = (PriorityLevel(most=256, override=True), USUAL, USUAL)  # with a bound of its own each
    assert result.policy == Policy(32, 0.0015, (8, 16), levels, 1)
    assert (result.plan.instances, result.plan.threads, result.max_pending_requests, result.unused) == (3, 2, 0, ())
    assert result.versions.served([1, 2, 5]) == {2, 5}
    reported = text_format.MessageToString(model_codec.config(model.info, model.serving))
    (tmp_path / "toy" / pbtxt.FILE_NAME).unlink()
    again = load(tmp_path, reported)
    assert again.serving.policy == model.serving.policy
    assert (again.serving.plan.instances, again.serving.plan.threads) == (3, 2)
    assert again.serving.versions == model.serving.versions
    assert again.info.max_batch_size == 32
    assert all("kan." in field for field in again.serving.unused if not field.startswith("default_model"))


def test_what_the_exporter_tells_triton_about_runs_is_no_operators_word(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    text = triton_config(manifests.load(tmp_path / "toy" / "1")).decode()
    assert "count: 2" in text
    alone = load(tmp_path, text, budget=1)
    assert (alone.serving.plan.instances, alone.serving.unused) == (1, ())
    assert load(tmp_path, text.replace("count: 2", "count: 3")).serving.plan.instances == 3
    assert load(tmp_path, text.replace('string_value: "1"', 'string_value: "2"')).serving.plan.threads == 2


def test_fields_without_a_meaning_here_are_named(tmp_path: Path) -> None:
    text = """
    sequence_batching { max_sequence_idle_microseconds: 5 }
    optimization { graph { level: 1 } }
    model_transaction_policy { decoupled: false }
    parameters { key: "inter_op_thread_count" value { string_value: "1" } }
    output [ { name: "y" reshape { shape: [ 2 ] } } ]
    instance_group [ { count: 1 gpus: [ 0 ] } ]
    """
    assert set(load(tmp_path, text).serving.unused) == {
        "sequence_batching",
        "optimization",
        "parameters.inter_op_thread_count",
        "output.reshape",
        "instance_group.gpus",
    }


@pytest.mark.parametrize("single", [False, True])
def test_labels_lie_beside_it(tmp_path: Path, single: bool) -> None:
    toy_model.write(tmp_path)
    folder = tmp_path / "toy"
    if single:
        folder = (folder / "1").rename(tmp_path / "alone")
    (folder / pbtxt.FILE_NAME).write_text('output [ { name: "y" label_filename: "classes.txt" } ]')
    (folder / "classes.txt").write_text("no\nyes, indeed\n")
    root = folder if single else tmp_path
    model = load(root)
    assert model.serving.labels == (pbtxt.Labels("y", "classes.txt", ("no", "yes, indeed")),)
    assert model_codec.config(model.info, model.serving).output[0].label_filename == "classes.txt"


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"\xff\n", "the label file classes.txt, which is not UTF-8 text"), (None, "classes.txt is missing")],
)
def test_labels_that_cannot_be_read_are_named(tmp_path: Path, data: bytes | None, said: str) -> None:
    toy_model.write(tmp_path)
    if data is not None:
        (tmp_path / "toy" / "classes.txt").write_bytes(data)
    with pytest.raises(LoadError, match=said):
        load(tmp_path, 'output [ { name: "y" label_filename: "classes.txt" } ]')


WRONG = {
    'output [ { name: "y" label_filename: "../labels.txt" } ]': "label_filename '../labels.txt'",
    'output [ { name: "y" label_filename: "/etc/passwd" } ]': "label_filename '/etc/passwd'",
    "dynamc_batching { }": 'no field named "dynamc_batching"',
    "max_batch_size: many": "line:column 1:17",
    "{{{": "has a syntax error at line:column",
    "max_batch_size: -1": "max_batch_size -1",
    'backend: "tensorflow"': "backend 'tensorflow'",
    'platform: "ensemble"': "platform 'ensemble'",
    'input [ { name: "z" } ]': "does not have the input 'x'",
    "instance_group [ { kind: KIND_GPU } ]": "requires the device cuda",
    "instance_group [ { kind: KIND_MODEL } ]": "KIND_MODEL",
    "instance_group [ { count: -3 } ]": "counts -3",
    'parameters { key: "intra_op_thread_count" value { string_value: "all" } }': "'all'",
    "dynamic_batching { preferred_batch_size: 0 }": "preferred_batch_size [0]",
    "max_batch_size: 8 dynamic_batching { preferred_batch_size: 9 }": "1 to 8",
    "dynamic_batching { priority_levels: 2 }": "default_priority_level 0",
    "dynamic_batching { priority_levels: 4000000000 }": "at most",
    "dynamic_batching { priority_queue_policy { key: 1 value { } } }": "level 1 of 0",
    "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }": "preserve_ordering",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_config_that_cannot_work_is_refused_with_a_reason(tmp_path: Path, text: str) -> None:
    with not_loaded(LoadReason.CONFIG, WRONG[text]) as caught:
        load(tmp_path, text)
    assert caught.value.code.startswith("config-")
    assert caught.value.hint
    assert str(tmp_path) not in str(caught.value)


def test_bytes_that_are_no_text_and_links_are_refused(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    path = tmp_path / "toy" / pbtxt.FILE_NAME
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LoadError, match="UTF-8"):
        load(tmp_path)
    path.unlink()
    path.symlink_to("/etc/hostname")
    with pytest.raises(LoadError, match=r"config\.pbtxt"):
        load(tmp_path)


def test_a_server_serves_the_versions_that_are_asked_for_and_goes_on_beside_a_broken_config(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        toy_model.write(tmp_path, "toy", version)
    toy_model.write(tmp_path, "broken")
    (tmp_path / "broken" / pbtxt.FILE_NAME).write_text("nonsense")
    (tmp_path / "toy" / pbtxt.FILE_NAME).write_text(
        "max_batch_size: 16 version_policy { specific { versions: [ 3, 1 ] } } optimization { priority: 2 }"
    )
    with serving(tmp_path) as server:
        index = pb.RepositoryIndexResponse.FromString(server.call(f"{INFERENCE}RepositoryIndex", b""))
        states = {(result.name, result.version): (result.state, result.reason) for result in index.models}
        rows = np.zeros((2, 3), np.float32)
        np.testing.assert_allclose(server.infer(rows), toy_model.outputs(rows), atol=1e-6)
        response = server.call(f"{INFERENCE}ModelConfig", pb.ModelConfigRequest(name="toy").SerializeToString())
        config = pb.ModelConfigResponse.FromString(response).config
        lines = server.lines()
    assert {key: state for key, (state, _) in states.items()} == {
        ("broken", "1"): "UNAVAILABLE",
        ("toy", "1"): "READY",
        ("toy", "3"): "READY",
    }
    assert "config.pbtxt has a syntax error" in states["broken", "1"][1]
    assert list(config.version_policy.specific.versions) == [1, 3]
    assert config.max_batch_size == 16
    assert [line["fields"] for line in lines if line["event"] == "config_fields_ignored"] == [["optimization"]]
    entries = {(entry.name, entry.version): entry for entry in inventory.of_folder(tmp_path)}
    assert entries["toy", "2"].state == inventory.IGNORED
    assert "specific 1, 3" in entries["toy", "2"].reason
    assert entries["broken", "1"].state == inventory.INVALID
    assert entries["toy", "3"].unused == ("optimization",)
