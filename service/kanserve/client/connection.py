"""The client that waits: one method a call, plain values in and out.

Every call has a deadline. UNAVAILABLE is retried, nothing else is. What gRPC
raises is translated once, into a ClientError (`kanserve.client.errors`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

import grpc

from kanserve.client import calls, channel, kan_calls
from kanserve.client.answers import ServedModel
from kanserve.client.calls import Call
from kanserve.client.peer import Peer, as_method
from kanserve.client.statistics import Update

T = TypeVar("T")
P = ParamSpec("P")


def _sends(make: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """A method that makes a call of its arguments, and waits for the answer."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._do(make(*args, **kwargs))

    return as_method(method, make)


class Client(Peer[grpc.Channel]):
    """A connection to one server. Close it, or use it in a `with` statement."""

    health = _sends(calls.health)
    ready = _sends(calls.ready)
    index = _sends(calls.index)
    describe = _sends(kan_calls.describe)
    infer = _sends(calls.infer)
    edges = _sends(kan_calls.edges)
    estimate = _sends(kan_calls.estimate)
    curves = _sends(kan_calls.curves)
    explain = _sends(kan_calls.explain)
    scores = _sends(kan_calls.scores)
    drift = _sends(kan_calls.drift)
    coverage = _sends(kan_calls.coverage)
    statistics = _sends(kan_calls.statistics)
    reset_statistics = _sends(kan_calls.reset_statistics)

    def watch_statistics(
        self, name: str, version: str = "", *, over: str = "total", interval: float = 0.0, updates: int = 0
    ) -> Iterator[Update]:
        """The same as `statistics`, now and after every `interval` seconds (0: 2), so many `updates` at most (0: until
        the version is replaced, or the server ends): the last one says why. No deadline; leave the loop to end it."""
        call = kan_calls.watch_statistics(name, version, over=over, interval=interval, updates=updates)
        messages = self._send(call)(call.data, metadata=self._metadata)
        try:
            yield from call.result(messages)
        except grpc.RpcError as error:
            raise self._translated(call, error) from error
        finally:
            messages.cancel()

    def model(self, name: str, version: str = "") -> ServedModel:
        """Inputs, outputs and batch limit of a model. Raises NotFound."""
        return calls.served(self._do(calls.metadata(name, version)), self._do(calls.config(name, version)))

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection."""
        self._channel.close()

    def _open(self, tls: channel.Tls) -> grpc.Channel:
        return channel.connect(self.url, tls)

    def _do(self, call: Call[T]) -> T:
        """Send it; again while the server is unavailable and the deadline allows. Raises ClientError."""
        send, data, attempts = self._send(call), call.data, self._attempts(call)
        while True:
            try:
                got = send(data, timeout=attempts.left, metadata=self._metadata)
                return call.result(list(got) if call.stream else got)
            except grpc.RpcError as error:
                pause = attempts.pause(error.code())
                if pause is None:
                    raise self._translated(call, error) from error
            time.sleep(pause)
