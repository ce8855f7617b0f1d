"""Updates of statistics as bytes. The server writes an update once for all watches of the same statistics, because a
large model's update takes milliseconds."""

from __future__ import annotations

import asyncio
import dataclasses
from types import TracebackType

from kanserve.handlers.statistics import Found
from kanserve.pb import kan_pb2
from kanserve.rpc import interpreting
from kanserve.rpc.known import BYTES, varint

STATISTICS = bytes([kan_pb2.StatisticsUpdate.DESCRIPTOR.fields_by_name["statistics"].number << 3 | BYTES])


class Told:
    """The written updates, and a context for each watch. It keeps nothing while there are no watches."""

    def __init__(self) -> None:
        self._users = 0
        self._written: dict[tuple[str, int, str], tuple[object, asyncio.Task[bytes]]] = {}

    def __enter__(self) -> Told:
        self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if not self._users:
            self._written.clear()

    async def update(self, found: Found, ended: str) -> bytes:
        """A StatisticsUpdate. If the nodes are the same object, the statistics are the same."""
        key = found.info.name, found.info.version, found.over
        nodes, task = self._written.get(key, (None, None))
        if task is None or nodes is not found.nodes:
            task = asyncio.ensure_future(asyncio.to_thread(_written, dataclasses.replace(found, id="")))
            self._written[key] = found.nodes, task
        # In the protobuf encoding, concatenated messages are merged.
        own = kan_pb2.GetStatisticsResponse(id=found.id).SerializeToString()
        statistics = await asyncio.shield(task)
        last = kan_pb2.StatisticsUpdate(ended=ended).SerializeToString()
        return b"".join((STATISTICS, varint(len(statistics) + len(own)), statistics, own, last))


def _written(found: Found) -> bytes:
    return interpreting.statistics_to_pb(found).SerializeToString()
