"""gRPC server reflection, v1 and v1alpha, for clients that discover methods at run time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from kanserve.pb import pool
from kanserve.rpc import convert
from kanserve.rpc.call import Call

METHOD = "ServerReflectionInfo"
# The v1alpha servicer under both names: the messages are the same on the wire.
SERVICES = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")


class Reflection:
    """Tells the descriptors of the given services."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._servicer = ReflectionServicer(services, pool=pool())

    async def info(self, messages: AsyncIterator[bytes], call: Call) -> AsyncIterator[bytes]:
        """One answer for every question."""
        async for answer in self._servicer.ServerReflectionInfo(_questions(messages), None):
            yield answer.SerializeToString()
            await asyncio.sleep(0)  # thousands of requests may arrive at once: other calls get a turn


async def _questions(messages: AsyncIterator[bytes]) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for message in messages:
        yield await convert.parsed(reflection_pb2.ServerReflectionRequest, message)
