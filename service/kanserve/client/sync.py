"""Blocking client: one method per call, with plain values as arguments and results.

Every call has a deadline. The client retries only UNAVAILABLE, CANCELLED and rate limits. It translates each gRPC error
once, into a ClientError (`kanserve.client.errors`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import grpc

from kanserve.client import base, calls
from kanserve.client.base import Peer, as_method, push_back
from kanserve.client.calls import Call, Chained, Request
from kanserve.client.statistics import Update

T = TypeVar("T")
P = ParamSpec("P")


def _sends(make: Callable[P, Request[T]]) -> Callable[Concatenate[Client, P], T]:
    """A method that makes a call from its arguments, and waits for the response."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._perform(make(*args, **kwargs))

    return as_method(method, make)


class Client(Peer[grpc.Channel]):
    """Connection to one or several servers. Close it, or use it in a `with` statement."""

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

    def watch_statistics(
        self, name: str, version: int | str = "", *, source: str = "total", interval: float = 0.0, updates: int = 0
    ) -> Iterator[Update]:
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
                for message in messages:
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

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def _open(self, tls: base.Tls) -> grpc.Channel:
        channel: grpc.Channel = base.connect(self._target, tls, grpc)
        return channel

    def _perform(self, request: Request[T]) -> T:
        """Send the request, after the calls whose results it needs. The client repeats each call while the server is
        unavailable, cancels it or limits the rate, until the deadline. Raises ClientError."""
        while isinstance(request, Chained):
            request = request.then(self._perform(request.first))
        send, data, attempts = self._send(request), request.data, self._attempts(request)
        while True:
            try:
                response = send(data, timeout=attempts.left, metadata=self._metadata)
                message = list(response) if request.stream else response
            except grpc.RpcError as error:
                pause = attempts.after(error)
                if pause is None:
                    raise self._translated(request, error, attempts) from None
            else:
                return self._result(request, message)
            time.sleep(pause)


class Pending(Generic[T]):
    """Call in flight, with one message each way. The client may send other calls before it waits for this response."""

    def __init__(self, client: Client, call: Call[T]) -> None:
        self._client, self._call, self._attempts = client, call, client._attempts(call)
        self._method, self._data = client._send(call), call.data
        self._future = self._sent()
        self.held_back = False  # whether the server limited the rate

    def _sent(self) -> Any:
        return self._method.future(self._data, timeout=self._attempts.left, metadata=self._client._metadata)

    def result(self) -> T:
        """Wait for the response. The client repeats the call like any other. Raises ClientError."""
        while True:
            try:
                message = self._future.result()
            except grpc.RpcError as error:
                self.held_back |= push_back(error) is not None
                pause = self._attempts.after(error)
                if pause is None:
                    raise self._client._translated(self._call, error, self._attempts) from None
            else:
                return self._client._result(self._call, message)
            time.sleep(pause)
            self._future = self._sent()

    def cancel(self) -> None:
        """Cancel the call if its response is not needed."""
        self._future.cancel()
