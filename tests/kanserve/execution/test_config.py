"""Tests of `execution/config.py`."""

from pathlib import Path

from kanexport.bundle.repository import triton_config
from kanexport.shared import manifest as manifests
from kanserve.scheduling.queue import Policy
from tests.support.toy_model import load


def test_settings_are_what_a_config_does_not_say(tmp_path: Path) -> None:
    plain = load(tmp_path, max_queue_delay_microseconds=7, max_batch_rows=50, max_pending_requests=11)
    assert (plain.serving.policy, plain.serving.max_pending_requests) == (Policy(50, 7e-6), 11)
    alone = load(tmp_path, batching=False)
    assert alone.serving.policy == Policy(0)
    exported = load(tmp_path, triton_config(manifests.load(tmp_path / "toy" / "1")).decode(), max_pending_requests=11)
    assert (exported.serving.policy, exported.serving.max_pending_requests) == (Policy(64), 11)
    reported = load(tmp_path, "dynamic_batching { }", max_queue_delay_microseconds=7, batching=False, max_batch_rows=50)
    assert reported.serving.policy == Policy(64)


def test_an_operator_allows_fewer_rows_than_the_manifest_proves_not_more(tmp_path: Path) -> None:
    model = load(tmp_path, "max_batch_size: 100\ndynamic_batching { preferred_batch_size: [ 99, 8 ] }")
    assert (model.info.max_batch_size, model.serving.policy) == (64, Policy(64, preferred=(8,)))
    assert [line.partition(":")[0] for line in model.serving.unused] == [
        "max_batch_size 100",
        "preferred_batch_size 99",
    ]


def test_who_comes_over_grpcio_waits_for_those_that_it_hands_over_one_by_one(tmp_path: Path) -> None:
    assert load(tmp_path, transport="grpcio").serving.rounds > load(tmp_path, transport="asgi").serving.rounds == 1
