"""Configuration of a serving version, from config.pbtxt, the settings and the measurements, in this order."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kanserve.config.settings import Settings
from kanserve.repository.pbtxt import ALL, Labels, OperatorConfig, VersionPolicy
from kanserve.scheduling.queue import Policy, PriorityLevel
from kanserve.types import ModelInfo

# grpc.aio hands over one call at a time, each some rounds of the loop after the one before, though all of them came
# together. Measured on a busy machine with 32 callers, [4, 8, 1]: 12 rounds 5050 a second, 8 3560, 4 2980, 1 2930.
ROUNDS = {"grpcio": 12}


@dataclass(frozen=True, slots=True)
class ExecutionPlan:
    """Plan for the executions of a model.

    instances    executions at the same time
    inline_rows  largest batch that runs on the event loop
    piece_rows   larger batches are divided into pieces of this size for all idle instances; 0: never
    threads      threads of one execution
    many_from    rows from which an execution uses the large-batch graph; 0: never
    kernel       whether executions use the graph with the custom operator of `kanexport.contract.custom_ops`
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
    way                   execution plan
    max_pending_requests  requests that wait or run; 0: only the limits of the priority levels
    device                cpu or cuda
    versions              version policy
    unused                settings of config.pbtxt without effect, in words
    max_request_bytes     bytes of one message; the same for all models
    nice                  niceness of its threads; the same for all models
    labels                labels of the classes, by output
    rounds                iterations of the event loop until the waiting requests run
    """

    policy: Policy
    way: ExecutionPlan
    max_pending_requests: int
    device: str = "cpu"
    versions: VersionPolicy = ALL
    unused: tuple[str, ...] = ()
    max_request_bytes: int = 0
    nice: int = 0
    labels: tuple[Labels, ...] = ()
    rounds: int = 1


def batch_size(config: OperatorConfig, proved: int, *, manifest: bool) -> int:
    """Rows of one request, and of one batch: an operator can allow fewer than the manifest proves, not more.
    Without a manifest nothing is proved. 0: the first dimension is no batch."""
    if not config.max_batch_size or not proved:
        return proved
    return min(config.max_batch_size, proved) if manifest else config.max_batch_size


def resolve_execution(info: ModelInfo, settings: Settings, config: OperatorConfig, way: ExecutionPlan) -> Serving:
    """The policy of a version, and how its runs go."""
    policy = _policy(info, settings, config)
    own = any(level.most for level in policy.levels)
    unused = tuple(_unused(info, config))
    return Serving(
        policy,
        way,
        0 if own else settings.max_pending_requests,
        settings.device,
        config.versions,
        unused,
        settings.max_request_bytes,
        settings.compute_nice,
        config.labels,
        ROUNDS.get(settings.transport, 1),
    )


def _policy(info: ModelInfo, settings: Settings, config: OperatorConfig) -> Policy:
    """Requests for a graph whose first dimension is no batch run alone, and wait for nobody."""
    batching, rows = config.batching, info.max_batch_size
    if batching is None:
        delay = settings.max_queue_delay_microseconds / 1e6
        return Policy(min(rows, settings.max_batch_rows), delay) if settings.batching and rows else Policy(0)
    preferred = tuple(size for size in batching.preferred if size <= rows)
    levels = _bounded(batching.levels, settings.max_pending_requests)
    return Policy(rows, batching.delay if rows else 0.0, preferred, levels, batching.usual, batching.ordered)


def _bounded(levels: tuple[PriorityLevel, ...], usual: int) -> tuple[PriorityLevel, ...]:
    """If one level has its own limit, the other levels get the `usual` one."""
    if not any(level.most for level in levels):
        return levels
    return tuple(replace(level, most=level.most or usual) for level in levels)


def _unused(info: ModelInfo, config: OperatorConfig) -> list[str]:
    """Settings without effect, in words."""
    notes = list(config.unused)
    if config.max_batch_size > info.max_batch_size:
        notes.append(f"max_batch_size {config.max_batch_size}: the model takes {info.max_batch_size}")
    if config.batching is not None:
        notes += [
            f"preferred_batch_size {size}: the model takes {info.max_batch_size}"
            for size in config.batching.preferred
            if size > info.max_batch_size
        ]
    return notes
