"""Several servers of one model: the same call to each, and sums of their statistics and shadow reports.

Counts add up exactly, and drift is computed from the added counts. A sum has only servers with the same files of the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from kanserve.analysis import drift
from kanserve.client.control import ShadowReport
from kanserve.client.errors import ArgumentError, ClientError
from kanserve.client.statistics import MEASURES, Floats, NodeStatistics, Statistics
from kanserve.client.sync import Client

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Replies(Generic[T]):
    """Replies of servers by address, and the errors of the servers without one."""

    by_server: Mapping[str, T]
    missing: Mapping[str, ClientError]

    @property
    def values(self) -> list[T]:
        """The replies in the order of the addresses."""
        return list(self.by_server.values())


def ask(clients: Mapping[str, Client], send: Callable[[Client], T]) -> Replies[T]:
    """The replies of servers that are called at the same time. Raises the ClientError of the first server if no server
    replies."""

    def reply(client: Client) -> T | ClientError:
        try:
            return send(client)
        except ClientError as error:
            return error

    with ThreadPoolExecutor(len(clients)) as pool:
        results = dict(zip(clients, pool.map(reply, clients.values()), strict=True))
    missing = {address: result for address, result in results.items() if isinstance(result, ClientError)}
    if len(missing) == len(results):
        raise next(iter(missing.values()))
    replies = {address: result for address, result in results.items() if not isinstance(result, ClientError)}
    return Replies(replies, missing)


def added(replies: Replies[Statistics]) -> Statistics:
    """The statistics of all servers together. `since` is the earliest, and `seconds` the longest time. Raises
    ArgumentError if the servers have other versions, files or bins."""
    _same(replies, "version", lambda each: each.version)
    _same(
        replies,
        "files of the version",
        lambda each: (each.digest, each.baseline, each.baseline_rows, [_bins(part) for part in each.nodes]),
    )
    every = replies.values
    counts = {name: sum(getattr(each, name) for each in every) for name in ("row_count", "rows_seen", "processes")}
    parts = zip(*(each.nodes for each in every), strict=True)
    node_count = sum(len(part.baseline_counts) for part in every[0].nodes)
    return replace(
        every[0],
        **counts,
        nodes=tuple(_nodes(part, counts["row_count"], every[0].baseline_rows, node_count) for part in parts),
        seconds=max(each.seconds for each in every),
        since=min(each.since for each in every),
        classes=np.sum([each.classes for each in every], axis=0),
    )


def added_shadows(replies: Replies[ShadowReport]) -> ShadowReport:
    """The shadow report of all servers together. It is running if all shadows are. Raises ArgumentError if the servers
    compare other versions, or with another share or tolerance."""
    _same(
        replies,
        "version, baseline version, share and tolerance of the shadow",
        lambda each: (each.version, each.baseline_version, each.share, each.tolerance),
    )
    every = replies.values
    counts = ("requests", "rows", "rows_out_of_tolerance", "requests_dropped", "requests_failed")
    changed = [each.rows_with_other_class for each in every if each.rows_with_other_class is not None]
    return replace(
        every[0],
        running=all(each.running for each in every),
        largest_difference=max(each.largest_difference for each in every),
        rows_with_other_class=sum(changed) if changed else None,
        **{name: sum(getattr(each, name) for each in every) for name in counts},
    )


def _same(replies: Replies[T], what: str, of: Callable[[T], Any]) -> None:
    (first, value), *others = ((address, of(reply)) for address, reply in replies.by_server.items())
    other = next((address for address, own in others if own != value), "")
    if other:
        raise ArgumentError(
            f"{what}: {first} and {other} differ, expected the same on each server",
            code="servers-differ",
            hint="pass the number of a version that each server has (--model-version), or fewer servers",
        )


def _bins(part: NodeStatistics) -> tuple[object, ...]:
    counts = (part.bounds, part.baseline_counts)
    return part.layer, part.origins, [[row.tolist() for row in rows] for rows in counts]


def _nodes(parts: Sequence[NodeStatistics], rows: int, baseline_rows: int, node_count: int) -> NodeStatistics:
    counts = tuple(np.sum(node, axis=0) for node in zip(*(part.counts for part in parts), strict=True))
    first = parts[0]
    compared: dict[str, Any] = {}
    if first.baseline_counts:
        lengths = np.array([len(row) for row in counts])
        both = ([row.tolist() for row in each] for each in (first.baseline_counts, counts))
        reference, current = (drift.padded(each, int(lengths.max())) for each in both)
        figures = drift.compare_counts(reference, baseline_rows, current, rows, lengths, node_count)
        compared = {name: getattr(figures, name) for name in MEASURES}
    mean, std = _moments(parts)
    return replace(
        first,
        nonfinite=np.sum([part.nonfinite for part in parts], axis=0),
        counts=counts,
        zones=np.sum([part.zones for part in parts], axis=0),
        mean=mean,
        std=std,
        min=np.fmin.reduce([part.min for part in parts]),
        max=np.fmax.reduce([part.max for part in parts]),
        **compared,
    )


def _moments(parts: Iterable[NodeStatistics]) -> tuple[Floats, Floats]:
    """Mean and standard deviation [n] of all finite values; NaN for too few values."""
    each = [(np.array([row.sum() for row in part.counts], float), part.mean, part.std) for part in parts]
    with np.errstate(invalid="ignore", divide="ignore"):
        count = sum(own for own, _, _ in each)
        mean = sum(own * np.where(own > 0, middle, 0.0) for own, middle, _ in each) / count
        squares = sum(
            np.where(own > 1, (own - 1) * std**2, 0.0) + np.where(own > 0, own * (middle - mean) ** 2, 0.0)
            for own, middle, std in each
        )
        return np.asarray(mean), np.sqrt(squares / np.where(count > 1, count - 1, np.nan))
