"""How a model is served, as the fields of ModelConfig in which an operator would say so."""

from __future__ import annotations

from typing import Any

from kanexport.manifest import MODEL_FILE
from kanexport.shared.kernel import KERNEL_FILE
from kanserve.models.serving import Serving
from kanserve.pb import model_config_pb2 as pb
from kanserve.repository.pbtxt import THREADS
from kanserve.repository.versions import VersionPolicy
from kanserve.scheduling.policy import Level, Policy

REQUEST = "kan.max_request_bytes"
GRAPH = "kan.graph"  # the file that runs
MANY = "kan.many_rows_from"  # runs of so many rows take the graph for many
# `default_timeout_microseconds` and `max_queue_size` are unsigned: 0 stands for none.
ACTIONS = {False: pb.ModelQueuePolicy.REJECT, True: pb.ModelQueuePolicy.DELAY}


def add(message: pb.ModelConfig, serving: Serving) -> None:
    """Fill what `repository/pbtxt.py` would read."""
    _versions(message.version_policy, serving.versions)
    kind = pb.ModelInstanceGroup.KIND_GPU if serving.device == "cuda" else pb.ModelInstanceGroup.KIND_CPU
    message.instance_group.add(count=serving.way.instances, kind=kind)
    message.parameters[THREADS].string_value = str(serving.way.threads)
    message.parameters[GRAPH].string_value = KERNEL_FILE if serving.way.kernel else MODEL_FILE
    message.parameters[REQUEST].string_value = str(serving.max_request_bytes)
    if serving.way.many_from:
        message.parameters[MANY].string_value = str(serving.way.many_from)
    if serving.policy.max_rows or len(serving.policy.levels) > 1:
        _batching(message.dynamic_batching, serving.policy, serving.max_queue)


def _versions(message: Any, policy: VersionPolicy) -> None:
    if policy.latest:
        message.latest.num_versions = policy.latest
    elif policy.specific is not None:
        message.specific.versions.extend(policy.specific)
    else:
        message.all.SetInParent()


def _batching(message: Any, policy: Policy, max_queue: int) -> None:
    message.preferred_batch_size.extend(policy.preferred)
    message.max_queue_delay_microseconds = round(policy.delay * 1e6)
    message.preserve_ordering = policy.ordered
    if len(policy.levels) == 1:
        _level(message.default_queue_policy, policy.levels[0], max_queue)
        return
    message.priority_levels = len(policy.levels)
    message.default_priority_level = policy.usual + 1
    for at, level in enumerate(policy.levels, 1):
        _level(message.priority_queue_policy[at], level, max_queue)


def _level(message: Any, level: Level, max_queue: int) -> None:
    message.timeout_action = ACTIONS[level.delays]
    message.default_timeout_microseconds = round((level.timeout or 0.0) * 1e6)
    message.allow_timeout_override = level.override
    message.max_queue_size = level.most or max_queue
