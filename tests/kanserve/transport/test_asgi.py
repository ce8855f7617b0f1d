"""Hot calls of the ASGI application: the same responses and counts with native code and in Python."""

import asyncio
import contextlib
import contextvars
import gc
import random
import sys
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanserve.config.settings import Settings
from kanserve.grpc_api.hot_path import method
from kanserve.grpc_api.hot_path.batch import Batches
from kanserve.grpc_api.services import Services
from kanserve.server import app
from kanserve.transport import asgi, factory
from kanserve.transport.asgi import GrpcApp, Limits
from tests.support import toy_model
from tests.support.server_process import INFERENCE, request
from tests.support.wait import turns

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
HEADERS = [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
REGULAR = (b"grpc-encoding", b"gzip")  # the message is not compressed, but only Python reads this header
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
PER_CALL = [
    [(b"grpc-timeout", b"5S")],
    [(b"x-request-id", b"a"), (b"traceparent", TRACE + b"1"), (b"tracestate", b"a=b")],
    [(b"authorization", b"Bearer of another server"), (b"grpc-encoding", b"identity"), (b"other", b"x" * 300)],
]
METHOD = ("unary", "inference.GRPCInferenceService", "ModelInfer")


class Served:
    """A toy model behind the application, without a port. `arrival`: seconds in which a call must arrive."""

    def __init__(
        self,
        application: app.App,
        services: Services,
        arrival: float,
        *,
        certified: bool = False,
        one_head: bool = False,
    ) -> None:
        self.app, self.services = application, services
        self.extensions: dict[str, Any] = {}
        limits, options = Limits(2**20, arrival, 64), {"watch": False, "one_head": one_head, "certified": certified}
        self.asgi = GrpcApp(services, limits, self._page, **options)

    async def _page(self, scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("no page was requested")

    def scope(self, headers: Any) -> Any:
        path = f"{INFERENCE}ModelInfer"
        basic = {"type": "http", "method": "POST", "path": path, "http_version": "2"}
        return {**basic, "headers": list(headers), "extensions": self.extensions}

    async def call(
        self, *bodies: bytes, headers: Any = HEADERS, never: bool = False, slow: int = 0, native: bool = True
    ) -> tuple[bytes, dict[bytes, bytes]]:
        """Message and trailers of one call, whose body arrives in these parts, or `never`. `slow`: turns of the event
        loop in which the client reads each part of the response."""
        events = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
        events[-1]["more_body"] = False
        sent: list[Any] = []

        async def receive() -> Any:
            if never:
                await asyncio.Event().wait()
            return events.pop(0)

        async def send(event: Any) -> None:
            await turns(slow)
            sent.append(event)

        application = self.asgi.application if native else self.asgi
        await asyncio.create_task(application(self.scope(headers), receive, send))
        await asyncio.sleep(0)  # the server counts a call after its response
        ended = () if b"grpc-status" in dict(sent[0]["headers"]) else ("trailers",)
        assert [event["type"] for event in sent] == [f"http.response.{part}" for part in ("start", "body", *ended)]
        return sent[1]["body"], dict(sent[-1 if ended else 0]["headers"])

    def batches(self) -> Batches:
        """The batches of the only known head."""
        (head,) = self.services.hot._known.values()
        assert head.batches is not None
        return head.batches

    def counts(self) -> dict[str, float]:
        metrics, guard = self.app.metrics, self.app.guard
        statistics = metrics.model("toy", "1").statistics
        number = metrics.number
        return {
            "started": number("grpc_server_started_total").labels(*METHOD).value,
            "ok": number("grpc_server_handled_total").labels(*METHOD, "OK").value,
            "cancelled": number("grpc_server_handled_total").labels(*METHOD, "CANCELLED").value,
            "seconds": sum(metrics.spread("grpc_server_handling_seconds").labels(*METHOD).counts),
            "success": statistics.success.count,
            "rows": statistics.inference_count,
            "queued": statistics.queue.count,
            "failed": statistics.fail.count,
            "in flight": guard.calls + guard.bytes + guard.inflight.value + statistics.pending,
        }

    def change(self, before: dict[str, float]) -> dict[str, float]:
        return {name: value - before[name] for name, value in self.counts().items()}


class Broken:
    """A client that sends a known call and disconnects after `left` events of its response."""

    def __init__(self, left: int) -> None:
        self._left, self.sent = left, []

    async def receive(self) -> Any:
        return {"type": "http.request", "body": framed(), "more_body": False}

    async def send(self, event: Any) -> None:
        if not self._left:
            raise OSError
        self._left -= 1
        self.sent.append(event)


class NoPort:
    tls = None

    async def start(self) -> dict[str, int]:
        return {"grpc": 0}

    async def part(self, grace: float) -> None:
        """Nothing is connected."""

    async def stop(self, grace: float | None) -> None:
        """Nothing serves."""


@contextlib.asynccontextmanager
async def served(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, native: bool, certified: bool = False, **more: Any
) -> AsyncIterator[Served]:
    toy_model.write(root)
    built: list[Services] = []

    def build(settings: Settings, services: Services, pages: Any) -> Any:
        built.append(services)
        return NoPort()

    monkeypatch.setattr(factory, "build", build)
    fixed = {"repository": root, "metrics_port": 0, "statistics": "off", "inline_run_seconds": 1.0}
    settings = Settings(**fixed, kernel=native, load_check=False, **more)
    application = app.App(settings)
    await application.load(asyncio.Event())
    created = Served(application, built[0], 600.0, certified=certified)
    if created.asgi.task_factory is not None:
        asyncio.get_running_loop().set_task_factory(created.asgi.task_factory)
    for _ in range(2):
        await created.call(framed())  # the regular path learns the head, and the next call the headers
    yield created
    application.registry.close()


Context = contextlib.AbstractAsyncContextManager[Served]
NATIVE = pytest.mark.parametrize("on", ["native"], indirect=True)


@pytest.fixture(params=["python", "native"])
def on(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A served model, with the hot path in Python or in native code."""
    native = request.param == "native"
    if native and method.native_calls() is None:
        pytest.skip("kanserve-kernel is not installed (make kernel)")
    return served(tmp_path, monkeypatch, native=native)


def framed(rows: np.ndarray = ROWS, id: str = "") -> bytes:
    message = request(rows, id=id).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


@NATIVE
@pytest.mark.parametrize("id", ["", "y" * 100])
async def test_native_code_takes_calls_with_any_headers_and_returns_the_bytes_of_the_regular_path(
    on: Context, monkeypatch: pytest.MonkeyPatch, id: str
) -> None:
    async with on as created:
        regular = await created.call(framed(ROWS + 1, id), headers=[*HEADERS, REGULAR])
        monkeypatch.setattr(GrpcApp, "_call", None)  # no call may take the regular path from now on
        calls = [created.call(framed(ROWS + 1, id), headers=headers) for headers in (HEADERS, HEADERS[::-1])]
        calls += [created.call(framed(ROWS + 1, id), b"", headers=[*HEADERS, *more]) for more in PER_CALL]
        assert await asyncio.gather(*calls) == [regular] * 5


async def test_a_client_that_disconnects_is_counted_and_not_computed(on: Context) -> None:
    async with on as created:
        before = created.counts()
        tasks = [asyncio.ensure_future(created.call(framed())) for _ in range(3)]
        while not created.batches()._turning:
            await asyncio.sleep(0)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [False, True, False]
        calls = {"started": 3, "ok": 2, "cancelled": 1, "seconds": 3, "success": 2}
        assert created.change(before) == {**calls, "rows": 4, "queued": 2, "failed": 1, "in flight": 0}


@pytest.mark.parametrize(
    ("bodies", "headers"),
    [
        ([framed()[:7], framed()[7:]], HEADERS),
        ([framed()], [*HEADERS, REGULAR]),
        ([framed()], [*HEADERS, (b"grpc-timeout", b"5S"), (b"grpc-timeout", b"6S")]),
        ([framed(id="é")], HEADERS),
        ([framed(np.zeros((3, 3), np.float32))], HEADERS),
    ],
    ids=["in parts", "compressed", "two deadlines", "id in Unicode", "of another shape"],
)
async def test_other_calls_take_the_regular_path(
    on: Context, monkeypatch: pytest.MonkeyPatch, bodies: list[bytes], headers: list[tuple[bytes, bytes]]
) -> None:
    async with on as created:
        before = created.counts()
        regular, handle = [], GrpcApp._call

        async def noted(*arguments: Any) -> None:
            regular.append(arguments)
            await handle(*arguments)

        monkeypatch.setattr(GrpcApp, "_call", noted)
        _, trailers = await created.call(*bodies, headers=headers)
        assert (len(regular), trailers[b"grpc-status"]) == (1, b"0")
        change = created.change(before)
        assert (change["started"], change["ok"], change["in flight"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("body", "headers", "never", "status"),
    [
        (framed(), [*HEADERS, (b"grpc-timeout", b"1n")], False, b"4"),
        (framed(), [*HEADERS, (b"grpc-timeout", b"1x")], False, b"13"),
        (framed()[:9], HEADERS, False, b"13"),
        (framed(id="é").replace("é".encode(), b"\xff\xff"), HEADERS, False, b"3"),
        (framed(), HEADERS, True, b"4"),
    ],
    ids=["deadline passed", "invalid deadline", "incomplete", "id not UTF-8", "arrives too late"],
)
async def test_a_call_that_fails_ends_with_its_status(
    on: Context, body: bytes, headers: list[tuple[bytes, bytes]], never: bool, status: bytes
) -> None:
    async with on as created:
        if never:
            created = Served(created.app, created.services, 0.2)
            await created.call(framed())
        runs = created.app.metrics.model("toy", "1").statistics.execution_count
        _, trailers = await created.call(body, headers=headers, never=never)
        assert trailers[b"grpc-status"] == status
        assert created.counts()["in flight"] == 0
        assert created.app.metrics.model("toy", "1").statistics.execution_count == runs


async def test_a_call_that_fails_ends_with_its_head_if_the_server_can_do_that(on: Context) -> None:
    """Clients with a retry policy repeat it then."""
    async with on as created:
        served = Served(created.app, created.services, 60, one_head=True)
        body, head = await served.call(framed(), headers=[*HEADERS, (b"grpc-timeout", b"1n")])
        assert (body, head[b"content-type"], head[b"grpc-status"]) == (b"", b"application/grpc", b"4")
        body, trailers = await served.call(framed())
        assert body
        assert trailers == {b"grpc-status": b"0"}


async def test_a_server_that_stops_ends_direct_calls_with_a_status(on: Context) -> None:
    async with on as created:
        task = asyncio.ensure_future(created.call(framed(), never=True))
        await turns()
        created.asgi.cut()
        _, trailers = await task
        assert (trailers[b"grpc-status"], trailers[b"kan-error-code"]) == (b"14", b"server-shutting-down")


@NATIVE
@pytest.mark.parametrize("last", [(), (b"",)], ids=["one event", "two events"])
async def test_native_code_takes_a_known_call_without_python(
    on: Context, monkeypatch: pytest.MonkeyPatch, last: tuple[bytes, ...]
) -> None:
    async with on as created:
        regular = [await created.call(framed(ROWS + at), *last, headers=[*HEADERS, REGULAR]) for at in range(20)]
        await created.call(framed(), *last)
        monkeypatch.setattr(Batches, "submit", None)
        assert await asyncio.gather(*(created.call(framed(ROWS + at), *last) for at in range(20))) == regular


async def test_a_client_that_reads_slowly_gets_the_same_response(on: Context) -> None:
    async with on as created:
        expected = await created.call(framed())
        assert await asyncio.gather(*(created.call(framed(), slow=5) for _ in range(5))) == [expected] * 5
        assert created.counts()["in flight"] == 0


async def test_a_client_that_disconnects_while_it_reads_ends_its_call_only(
    on: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "CANCELLED", 0.01)
    async with on as created:
        expected = await created.call(framed())
        for at in range(3):
            broken = Broken(at)
            scope = created.scope(HEADERS)
            gone = asyncio.create_task(created.asgi.application(scope, broken.receive, broken.send))
            assert await created.call(framed()) == expected
            assert await gone is None
            assert len(broken.sent) == at
        assert created.counts()["in flight"] == 0


async def test_changed_messages_get_the_responses_of_the_regular_path(on: Context) -> None:
    async with on as created:
        choice = random.Random(7)
        known = framed(id="abc")
        for _ in range(300):
            data = bytearray(known)
            for _ in range(choice.choice((1, 1, 2, 5))):
                data[choice.randrange(5, len(data))] = choice.choice((0, 1, 7, 0x22, 0x7F, 0x80, 0xFF))
            cut = choice.choice((0, 0, 0, 1, choice.randrange(len(data) - 5)))
            message = bytes(data[5 : len(data) - cut])
            body = b"\0" + len(message).to_bytes(4, "big") + message
            direct, regular = [await created.call(body, headers=headers) for headers in (HEADERS, [*HEADERS, REGULAR])]
            assert direct[0] == regular[0], body
            assert direct[1][b"grpc-status"] == regular[1][b"grpc-status"], body
            assert await created.call(known) == await created.call(known, headers=HEADERS)
        assert created.counts()["in flight"] == 0


NAMES = [b"grpc-timeout", b"x-request-id", b"traceparent", b"authorization", b"grpc-encoding", b"te", b"content-typ"]
VALUES = [
    b"",
    b"5S",
    b"99999999H",
    b"99999999M",
    b"123456789S",
    b"S",
    b"-1S",
    b"5x",
    b"0n",
    b"identity",
    b"gzip",
    b"none",
]
VALUES += [TRACE + b"0", b"Bearer x", b"\xff\x00", b"a" * 5000]


@NATIVE
async def test_random_headers_get_the_responses_of_python(on: Context) -> None:
    async with on as created:
        choice = random.Random(11)
        for _ in range(300):
            more = [(choice.choice(NAMES), choice.choice(VALUES)) for _ in range(choice.randrange(5))]
            headers = choice.sample([*HEADERS, *more], len(HEADERS) + len(more))
            native, python = [await created.call(framed(), headers=headers, native=way) for way in (True, False)]
            assert native[0] == python[0], headers
            assert native[1][b"grpc-status"] == python[1][b"grpc-status"], headers
        assert created.counts()["in flight"] == 0


@NATIVE
@pytest.mark.parametrize(
    "wrong", [None, (), [b"te"], [(b"te",)], [("te", b"x")], [(b"te", None)], [(b"te", b"x", b"y")]]
)
async def test_a_scope_of_another_form_is_left_to_python(on: Context, wrong: Any) -> None:
    async with on as created:
        scope = created.scope(HEADERS) | {"headers": wrong}
        call = created.asgi.application(scope, None, None)
        assert type(call).__name__ == "Call"
        call.close()


async def test_an_unloaded_model_serves_no_direct_call(on: Context) -> None:
    async with on as created:
        waiting = [asyncio.create_task(created.call(framed())) for _ in range(3)]
        while not created.batches()._turning:
            await asyncio.sleep(0)
        await created.app._reconciler.unload_by_hand("toy")
        assert {trailers[b"grpc-status"] for _, trailers in await asyncio.gather(*waiting)} <= {b"0", b"5"}
        _, trailers = await created.call(framed())
        assert trailers[b"grpc-status"] == b"5"


async def test_no_object_of_a_call_stays(on: Context) -> None:
    async with on as created:
        await asyncio.gather(*(created.call(framed(ROWS + at), slow=at % 2 * 5) for at in range(20)))
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(10):
            await asyncio.gather(*(created.call(framed(ROWS + at), slow=at % 2 * 5) for at in range(20)))
        gc.collect()
        assert len(gc.get_objects()) - before < 100
        assert not [item for item in gc.get_objects() if type(item).__name__ == "Call"]


def test_a_module_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, method.NATIVE, types.SimpleNamespace(VERSION=0))
    assert method.native_calls.__wrapped__() is None


@NATIVE
async def test_a_loop_without_the_task_factory_handles_calls_in_python(on: Context) -> None:
    async with on as created:
        expected = await created.call(framed())
        asyncio.get_running_loop().set_task_factory(None)
        assert await asyncio.gather(*(created.call(framed()) for _ in range(3))) == [expected] * 3
        task = asyncio.create_task(created.call(framed(), never=True))
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert created.counts()["in flight"] == 0


@NATIVE
async def test_the_task_factory_changes_no_other_task(on: Context) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def name() -> tuple[str, int]:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name(), variable.get()

    async with on:
        context = contextvars.copy_context()
        context.run(variable.set, 7)
        assert await asyncio.create_task(name(), name="other", context=context) == ("other", 7)


async def test_calls_of_a_batch_that_fails_take_the_regular_path(on: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    async with on as created:
        expected, before = await created.call(framed()), created.counts()
        monkeypatch.setattr(Batches, "_computed", lambda *_: None)
        assert await asyncio.gather(*(created.call(framed()) for _ in range(3))) == [expected] * 3
        change = created.change(before)
        assert (change["started"], change["ok"], change["in flight"]) == (3, 3, 0)
