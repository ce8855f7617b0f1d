"""Asyncio client with the methods of `Client`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc
import grpc.aio

from kanserve.client import base, calls
from kanserve.client.base import Peer, as_method
from kanserve.client.calls import Chained, Request
from kanserve.client.statistics import Update

T = TypeVar("T")
P = ParamSpec("P")


def _sends(make: Callable[P, Request[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """A method that makes a call from its arguments, and awaits the response."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._perform(make(*args, **kwargs))

    return as_method(method, make)


class AsyncClient(Peer[grpc.aio.Channel]):
    """Connection to one or several servers, bound to the event loop that runs when it is created. Calls may run at the
    same time. Close it, or use it in an `async with` statement."""

    health = _sends(calls.health)
    ready = _sends(calls.ready)
    index = _sends(calls.index)
    model = _sends(calls.model)
    describe = _sends(calls.describe)
    certificates = _sends(calls.certificates)
    infer = _sends(calls.infer)
    edges = _sends(calls.edges)
    estimate = _sends(calls.estimate)
    curves = _sends(calls.curves)
    explain = _sends(calls.explain)
    scores = _sends(calls.scores)
    drift = _sends(calls.drift)
    coverage = _sends(calls.coverage)
    statistics = _sends(calls.statistics)
    reset_statistics = _sends(calls.reset_statistics)

    async def watch_statistics(
        self, name: str, version: int | str = "", *, source: str = "total", interval: float = 0.0, updates: int = 0
    ) -> AsyncIterator[Update]:
        """Statistics as `statistics` returns them, now and after every `interval` seconds (0: 2). The watch has no
        deadline; leave the loop to end it. It continues on a new connection if the server closes an old one by age.

        updates  largest number of updates; 0: until the version is replaced or the server ends

        The last update says why the watch ended.
        """
        count = 0
        while not (updates and count >= updates):
            left = updates and updates - count
            call = calls.watch_statistics(name, version, source=source, interval=interval, updates=left)
            messages = self._send(call)(call.data, metadata=self._metadata)
            try:
                async for message in messages:
                    for update in self._result(call, [message]):
                        count += 1
                        yield update
            except grpc.RpcError as error:
                if not base.closed_by_age(error):
                    raise self._translated(call, error, self._attempts(call)) from None
            else:
                return
            finally:
                messages.cancel()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Calls in progress end with ServerFailed or are cancelled."""
        await self._channel.close()

    def _open(self, tls: base.Tls) -> grpc.aio.Channel:
        try:
            asyncio.get_running_loop()
        except RuntimeError as error:
            raise RuntimeError("an AsyncClient needs a running event loop: create it inside `async def`") from error
        channel: grpc.aio.Channel = base.connect(self._target, tls, grpc.aio)
        return channel

    async def _perform(self, request: Request[T]) -> T:
        """Send the request as `Client` does."""
        while isinstance(request, Chained):
            request = request.then(await self._perform(request.first))
        send, data, attempts = self._send(request), request.data, self._attempts(request)
        while True:
            try:
                response = send(data, timeout=attempts.left, metadata=self._metadata)
                message = [part async for part in response] if request.stream else await response
            except grpc.RpcError as error:
                pause = attempts.after(error)
                if pause is None:
                    raise self._translated(request, error, attempts) from None
            else:
                return self._result(request, message)
            await asyncio.sleep(pause)
