"""Configuration of a serving version, from config.pbtxt, the settings and the measurements, in this order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kanserve.config.settings import Settings
from kanserve.repository.pbtxt import ALL, Labels, OperatorConfig, VersionPolicy
from kanserve.scheduling.queue import Policy, PriorityLevel
from kanserve.types import ModelInfo

# grpc.aio passes on one call at a time, each some rounds of the loop after the previous one, even if all arrived
# together. Measured on a busy machine with 32 clients, [4, 8, 1], in calls/s: 12 rounds 5050, 8 3560, 4 2980, 1 2930.
ROUNDS = {"grpcio": 12}


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """Plan for the executions of a model.

    instances    executions at the same time
    inline_rows  largest batch that runs on the event loop
    piece_rows   larger batches are divided into pieces of this size for all idle instances; 0: never
    threads      threads of one execution
    many_from    rows from which an execution uses the large-batch graph; 0: never
    kernel       whether executions use the graph with the custom operator of `kanexport.shared.custom_ops`
    """

    instances: int
    inline_rows: int
    piece_rows: int = 0
    threads: int = 1
    many_from: int = 0
    kernel: bool = False


@dataclass(frozen=True, slots=True)
class Serving:
    """Configuration in effect for one version.

    policy                queue policy
    plan                  execution plan
    max_pending_requests  requests that wait or run; 0: only the limits of the priority levels
    device                cpu or cuda
    versions              version policy
    unused                texts about settings of config.pbtxt without effect
    max_request_bytes     bytes of one message; the same for all models
    nice                  niceness of its threads; the same for all models
    labels                labels of the classes, by output
    rounds                iterations of the event loop until the waiting requests run
    """

    policy: Policy
    plan: ExecutionPlan
    max_pending_requests: int
    device: str = "cpu"
    versions: VersionPolicy = ALL
    unused: tuple[str, ...] = ()
    max_request_bytes: int = 0
    nice: int = 0
    labels: tuple[Labels, ...] = ()
    rounds: int = 1


def batch_size(config: OperatorConfig, verified: int, *, manifest: bool) -> int:
    """Largest number of rows of a request and of a batch. An operator can allow fewer rows than the manifest verifies,
    but not more. Without a manifest, no number is verified. 0: the first dimension is not the batch."""
    if not config.max_batch_size or not verified:
        return verified
    return min(config.max_batch_size, verified) if manifest else config.max_batch_size


def resolve_execution(info: ModelInfo, settings: Settings, config: OperatorConfig, plan: ExecutionPlan) -> Serving:
    """The queue policy and the execution plan of a version."""
    policy = _policy(info, settings, config)
    return Serving(
        policy,
        plan,
        0 if any(level.most for level in policy.levels) else settings.max_pending_requests,
        settings.device,
        config.versions,
        tuple(_unused(info, config)),
        settings.max_request_bytes,
        settings.compute_nice,
        config.labels,
        ROUNDS.get(settings.transport, 1),
    )


def _policy(info: ModelInfo, settings: Settings, config: OperatorConfig) -> Policy:
    """The queue policy. Requests for a graph without a batch dimension run unbatched, and do not wait for others."""
    batching, rows = config.batching, info.max_batch_size
    if batching is None:
        delay = settings.max_queue_delay_microseconds / 1e6
        return Policy(min(rows, settings.max_batch_rows), delay) if settings.batching and rows else Policy(0)
    preferred = tuple(size for size in batching.preferred if size <= rows)
    levels = _bounded(batching.levels, settings.max_pending_requests)
    return replace(batching, max_rows=rows, delay=batching.delay if rows else 0.0, preferred=preferred, levels=levels)


def _bounded(levels: tuple[PriorityLevel, ...], usual: int) -> tuple[PriorityLevel, ...]:
    """If one level has its own limit, the other levels get the `usual` one."""
    if not any(level.most for level in levels):
        return levels
    return tuple(replace(level, most=level.most or usual) for level in levels)


def _unused(info: ModelInfo, config: OperatorConfig) -> list[str]:
    """Texts about settings without effect."""
    notes = list(config.unused)
    if config.max_batch_size > info.max_batch_size:
        notes.append(f"max_batch_size {config.max_batch_size}: the model takes at most {info.max_batch_size}")
    if config.batching is not None:
        notes += [
            f"preferred_batch_size {size}: the model takes at most {info.max_batch_size}"
            for size in config.batching.preferred
            if size > info.max_batch_size
        ]
    return notes
