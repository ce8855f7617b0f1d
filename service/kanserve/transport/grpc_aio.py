"""Transport on grpc.aio: it passes the bytes of each call to the guarded methods and sends their responses."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import grpc

from kanserve.config.fields import GRPC_LIMIT
from kanserve.config.settings import Settings
from kanserve.grpc_api.call_context import PUSHBACK, CallFailed, Code, RequestMetadata
from kanserve.grpc_api.interceptor import Guarded, Kind, Unary, alone
from kanserve.grpc_api.services import Services
from kanserve.grpc_api.unfinished_requests import SHARE
from kanserve.transport import endpoints
from kanserve.transport.call_io import no_message
from kanserve.transport.endpoints import Port, Tls

ENVELOPE_BYTES = 2**20  # of names and ids around a response's tensors, which the handlers bound
PENDING = 4096
WINDOW = 2**16  # bytes
LEAST = 4  # calls that read at once, however large requests may be
STATUS = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs only


def options(settings: Settings, connections: int) -> list[tuple[str, int]]:
    """Channel options. gRPC accepts unknown names silently, so tests check their effect."""
    milliseconds = {
        "grpc.server_handshake_timeout_ms": settings.handshake_timeout,
        "grpc.max_connection_idle_ms": settings.max_connection_idle_seconds,
        "grpc.max_connection_age_ms": settings.max_connection_age_seconds,
        "grpc.max_connection_age_grace_ms": settings.max_connection_age_grace_seconds,
        "grpc.keepalive_time_ms": settings.keepalive_seconds,
        "grpc.keepalive_timeout_ms": settings.keepalive_seconds / 3,
        "grpc.http2.min_ping_interval_without_data_ms": settings.keepalive_seconds / 2,
    }
    return [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_send_message_length", min(settings.max_response_bytes + ENVELOPE_BYTES, GRPC_LIMIT)),
        # A second server on this port must fail, not steal half the calls, unless it is another worker.
        ("grpc.so_reuseport", int(endpoints.shared(settings.grpc_port))),
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # Two limits, between which gRPC core rejects at random.
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_channelz", 0),
        # Bytes that core keeps of a message that no call reads yet (`readers`). Core would let this window grow.
        ("grpc.http2.lookahead_bytes", WINDOW),
        ("grpc.http2.bdp_probe", 0),
        # Waiting to be picked up: beyond the first, gRPC core cancels some at random. The guard rejects with a text.
        ("grpc.server.max_pending_requests", PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING),
        *((name, round(seconds * 1000)) for name, seconds in milliseconds.items() if seconds),  # 0: gRPC's: no limit
    ]


class Grpcio:
    """Transport on grpc.aio that is not bound yet. It needs a running event loop."""

    def __init__(self, settings: Settings, services: Services, connections: int, tls: Tls | None) -> None:
        self._port = Port.grpc(settings)
        self._renewed: grpc.ServerCertificateConfiguration | None = None
        self._credentials = None
        if tls is not None:  # requested in every handshake; open connections keep theirs
            self._credentials = grpc.dynamic_ssl_server_credentials(
                _configured(tls), self._take, require_client_authentication=tls.client_ca is not None
            )
        logging.getLogger("grpc._cython.cygrpc").addFilter(_worth_a_line)
        self._server = grpc.aio.server(options=options(settings, connections))
        # As many readers of the largest requests as fit the share of `max_inflight_bytes` for unfinished requests.
        most = max(LEAST, int(SHARE * settings.max_inflight_bytes) // settings.max_request_bytes)
        readers = Readers(most, settings.max_inflight_requests)
        self._server.add_generic_rpc_handlers((_Router(services, readers, certified=settings.certified),))

    async def start(self) -> int:
        """Bind the port and serve. Returns the port. Raises ConfigError if the address is taken or wrong."""
        host = self._port.host
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        address = f"{host}:{self._port.port}"
        try:
            if self._credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, self._credentials)
        except RuntimeError:  # gRPC core does not say why
            bound = 0
        if not bound:
            taken = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))  # if the port is free again by now
            raise endpoints.bind_error(self._port) or self._port.refused(taken)
        await self._server.start()
        return bound

    def _take(self) -> grpc.ServerCertificateConfiguration:
        """The new certificates since the last handshake, or None, which the stubs of gRPC do not allow. gRPC calls
        this in a handshake."""
        renewed, self._renewed = self._renewed, None
        return cast(grpc.ServerCertificateConfiguration, renewed)

    async def renew(self, tls: Tls) -> None:
        """Use these certificates in every new handshake."""
        self._renewed = _configured(tls)

    async def part(self, grace: float) -> None:
        """Nothing: gRPC core closes no connection of a server that goes on."""

    async def stop(self, grace: float | None) -> None:
        """Accept no more calls, wait `grace` seconds for calls in flight, then end them (None: at once)."""
        await self._server.stop(grace)


def _worth_a_line(line: logging.LogRecord) -> bool:
    """Whether a log line of gRPC is written. Metadata that is not text may be a part of a tensor, so the server drops
    such lines. It also drops tracebacks for calls that core has already ended, because the guard logs them."""
    return not str(line.msg).startswith(("Invalid encoding", "ExecuteBatchError raised in core"))


def _configured(tls: Tls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.identity.key, tls.identity.chain)], tls.client_ca)


class _Router(grpc.GenericRpcHandler):
    """Table from the full name of a method to its handler."""

    def __init__(self, services: Services, readers: Readers, *, certified: bool) -> None:
        self._methods = {path: _handler(method, readers, certified) for path, method in services.methods.items()}
        self._unknown = _handler(services.unknown, readers, certified)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        return self._methods.get(handler_call_details.method, self._unknown)


def _handler(method: Guarded, readers: Readers, certified: bool) -> Handler:
    if isinstance(method, Unary):

        async def unary(messages: AsyncIterator[bytes], context: Context) -> bytes:
            data = b""
            try:
                shown = _arrival(context, certified)
                data = await _message(method, shown, context, readers)
                return await method.respond(data, shown)
            except CallFailed as failure:
                del data  # this frame stays with the error that `abort` raises, until the garbage is collected
                await _abort(context, failure)
                raise  # abort has raised already

        return grpc.stream_unary_rpc_method_handler(unary)

    async def stream(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        try:
            shown = _arrival(context, certified)
            if method.kind is Kind.SERVER_STREAM:
                messages = alone(await _message(method, shown, context, readers))
            async for response in method.respond(messages, shown):
                yield response
        except CallFailed as failure:
            await _abort(context, failure)

    return grpc.stream_stream_rpc_method_handler(stream)


async def _message(method: Guarded, shown: RequestMetadata, context: Context, readers: Readers) -> bytes:
    """The only message of a call. If the method rejects the caller, the transport reads none of it. Raises
    CallFailed."""
    if method.rejects_caller is not None and method.rejects_caller(shown):
        return b""
    try:
        # Not by the iterator, which holds each message until the garbage collector runs.
        data = await readers.read(context.peer(), context.read)
    except CallFailed as failure:
        raise method.refused(failure, shown) from None
    if data is grpc.aio.EOF:
        raise method.refused(no_message(), shown)
    return cast(bytes, data)


def _arrival(context: Context, certified: bool) -> RequestMetadata:
    """The metadata of a call; if it is `certified`, with the certificate that the client has presented."""
    certificates = context.auth_context().get("x509_pem_cert", ()) if certified else ()
    # grpc.aio computes the seconds until the deadline from the wall clock. If none are left and the call is alive, that
    # clock has jumped. Core has its own timer, and ends the call in time.
    left = context.time_remaining()
    remaining = None if left is not None and left <= 0 else left
    return RequestMetadata(context.invocation_metadata() or (), remaining, next(iter(certificates), b""))


async def _abort(context: Context, failure: CallFailed) -> None:
    failure.forget()
    await context.abort(status(failure.status), failure.text, trailing_metadata=failure.trailers)


def status(code: Code) -> grpc.StatusCode:
    """gRPC's name for a code."""
    return STATUS[int(code)]


PATIENCE = 0.5  # seconds in which a message arrives whole if others wait
LESS = 0.1  # seconds if its connection has another reader, and a connection without a reader waits
T = TypeVar("T")


class Readers:
    """Limiter of the calls that read their message at the same time. Its methods need a running event loop. The next
    reader is a call of the connection with the fewest readers.

    most     number of calls that read
    waiting  number of calls that wait for their turn
    """

    def __init__(self, most: int, waiting: int) -> None:
        self._free, self._waiting = most, waiting
        self._reading: dict[asyncio.Task[object], _Reader] = {}  # the longest reader first
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # by connection; the one served last at the end
        self._held: Counter[str] = Counter()  # readers by connection
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, connection: str, message: Callable[[], Awaitable[T]]) -> T:
        """The only message of a call, which `message` reads. Raises CallFailed."""
        if self._free:
            self._free -= 1
            self._held[connection] += 1
        else:
            await self._turn(connection)
        task = asyncio.current_task()
        assert task is not None
        reader = self._reading[task] = _Reader(connection, task.get_loop().time())
        try:
            return await message()
        except asyncio.CancelledError:
            if (seconds := reader.refused) and task.uncancel() == 0:
                raise CallFailed(
                    Code.RESOURCE_EXHAUSTED,
                    f"the message did not arrive completely within {seconds:g} s while other calls waited",
                    (PUSHBACK,),
                    code="request-too-slow",
                    hint="send the request again later",
                ) from None
            raise
        finally:
            del self._reading[task], task
            self._release(connection)

    async def _turn(self, connection: str) -> None:
        loop = asyncio.get_running_loop()
        if self._count >= self._waiting:
            self._shed(connection)
        turn = loop.create_future()
        self._queues.setdefault(connection, deque()).append(turn)
        self._count += 1
        if self._timer is None:
            self._timer = loop.call_later(LESS, self._reject_slow, loop)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release(connection)
            else:
                self._forget(connection, turn)
            raise

    def _release(self, connection: str) -> None:
        """A reader of this connection is done: give the turn to the next call. A call that was cancelled while it waits
        stays in its queue until its task runs again, and gets no turn."""
        self._held[connection] -= 1
        if not self._held[connection]:
            del self._held[connection]
        while self._queues:
            connection = min(self._queues, key=lambda name: self._held[name])
            queue = self._queues[connection]
            turn = queue.popleft()
            del self._queues[connection]
            if queue:
                self._queues[connection] = queue  # again, behind all others
            self._count -= 1
            if not turn.done():
                self._held[connection] += 1
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, connection: str, turn: asyncio.Future[None]) -> None:
        queue = self._queues.get(connection)
        if queue is not None and turn in queue:
            queue.remove(turn)
            self._count -= 1
            if not queue:
                del self._queues[connection]

    def _shed(self, connection: str) -> None:
        """Reject the newest waiting call of the connection with most of them. Raises CallFailed if that is the
        connection of the new call."""
        heaviest, queue = max(self._queues.items(), key=lambda item: len(item[1]))
        failure = CallFailed(
            Code.RESOURCE_EXHAUSTED,
            f"{self._waiting} calls wait until the server reads their messages, which is its limit",
            (PUSHBACK,),
            code="too-many-incomplete-requests",
            hint="send the request again later",
        )
        if heaviest == connection:
            raise failure
        turn = queue[-1]
        self._forget(heaviest, turn)
        if not turn.done():
            turn.set_exception(failure)

    def _reject_slow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reject calls that read for too long, at most one for each waiting call."""
        assert self._timer is not None
        now, due = loop.time(), self._timer.when()
        self._timer = None
        if not self._count:
            return
        late = self._slow(now - PATIENCE)
        many = Counter(reader.connection for _, reader in late)
        rejected = min(self._count, len(late))
        for _ in range(rejected):
            ((heaviest, _),) = many.most_common(1)
            many[heaviest] -= 1
            _give_up(late, heaviest, PATIENCE)
        if now < due + PATIENCE / 10:  # a busy event loop has not read messages that arrived, and `LESS` is short
            self._share(now, rejected)
        self._timer = loop.call_later(PATIENCE / 10, self._reject_slow, loop)

    def _share(self, now: float, rejected: int) -> None:
        """Reject calls of connections with several readers, one for each waiting connection that has none."""
        waiting = sum(connection not in self._held for connection in self._queues) - rejected
        slow = self._slow(now - LESS)
        held = Counter(reader.connection for reader in self._reading.values() if not reader.refused)
        some = Counter(reader.connection for _, reader in slow)
        for _ in range(waiting):
            heaviest = max(some, key=lambda name: held[name], default=None)
            if heaviest is None or held[heaviest] < 2:
                return
            _give_up(slow, heaviest, LESS)
            held[heaviest] -= 1
            some[heaviest] -= 1
            if not some[heaviest]:
                del some[heaviest]

    def _slow(self, since: float) -> list[tuple[asyncio.Task[object], _Reader]]:
        """The calls that have been reading since then or for longer, except for rejected ones."""
        return [
            (task, reader) for task, reader in self._reading.items() if reader.since <= since and not reader.refused
        ]


@dataclass(slots=True, eq=False)
class _Reader:
    """Call that has been reading its message since `since`. `refused`: seconds that it had when it was rejected; 0 if
    it was not."""

    connection: str
    since: float
    refused: float = 0.0


def _give_up(late: list[tuple[asyncio.Task[object], _Reader]], connection: str, seconds: float) -> None:
    """Reject the slowest reader of that connection, which had these seconds."""
    task, reader = next(
        (task, candidate) for task, candidate in late if candidate.connection == connection and not candidate.refused
    )
    reader.refused = seconds
    task.cancel()
