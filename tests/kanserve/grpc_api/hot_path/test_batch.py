"""Batches of requests with one head, which run together, and callers of native calls.

Some requests must take the regular path. Each caller is resolved once, and never after its credential is revoked,
changed or expired.
"""

import asyncio
import contextlib
import json
import time
import types
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from kanserve.auth import token_file
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.permissions import Principal, Role, including
from kanserve.auth.token_file import Credentials, Entry
from kanserve.execution.config import ExecutionPlan, Serving
from kanserve.execution.executor import CALM, PROBE, Executor, Limits
from kanserve.grpc_api.hot_path import batch, method
from kanserve.grpc_api.hot_path.batch import LONGEST, Batches, Result
from kanserve.grpc_api.hot_path.method import Head
from kanserve.grpc_api.interceptor import AccessLog
from kanserve.observability import logs
from kanserve.observability.metrics import Metrics
from kanserve.scheduling.queue import Policy, PriorityLevel
from kanserve.transport.asgi import GrpcApp
from tests.kanserve.execution.test_executor import Graph
from tests.kanserve.transport.test_asgi import HEADERS, REGULAR, TRACE, Served, framed, served
from tests.support.wait import turns


def executor(
    graph: Any, policy: Policy | None = None, plan: ExecutionPlan | None = None, most: int = 256, rounds: int = 1
) -> Executor:
    serving = Serving(policy or Policy(64), plan or ExecutionPlan(1, 1024), most, rounds=rounds)
    return Executor("m", graph, Metrics().model("m", "1"), serving, 2**20)


def runs(lane: Batches) -> list[int]:
    """Rows of each run of the graph."""
    return lane._executor.execute.runs


def row(value: float) -> list[bytes]:
    return [np.full(2, value, "<f4").tobytes()]


class Counted:
    """The counters of a model: batches, and requests whose client has disconnected."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.gone = 0
        self.statistics = self

    def completed(self, rows: int, timing: object, waited: object, took: Sequence[float]) -> None:
        self.batches.append(len(took))

    def failed(self, waited: int, reason: object) -> None:
        self.gone += 1


def head(metrics: Counted) -> Head:
    """The head of requests of one row; its responses are the bytes of the output."""
    model = types.SimpleNamespace(metrics=metrics, observed=False, range_guard=None)
    ready: Any = types.SimpleNamespace(rows=1, model=model)
    return Head(ready, [("x", np.dtype("<f4"), (1, 2), 8)], [("y", (1, 2), 8)], b"", b"", [b""], {})


def submitted(lane: Batches, value: float, deadline: float | None = None) -> asyncio.Future[Result | None]:
    result = lane.submit(row(value), b"", deadline)
    assert result is not None
    return result


def value(response: Result | None) -> float:
    assert response is not None
    item, queue_ns, infer_ns = response
    assert queue_ns >= 0 < infer_ns
    assert len(item) == 8
    return float(np.frombuffer(item, "<f4")[0])


@contextlib.asynccontextmanager
async def on(**options: Any) -> AsyncIterator[Batches]:
    """The batches of an executor of a Graph."""
    created = executor(**{"graph": Graph(), **options})
    assert created.inline(1)
    account: Any = None  # no call is native
    yield Batches(head(Counted()), created, account)
    assert created._metrics.statistics.pending == 0
    await asyncio.to_thread(created.close)


async def test_who_comes_alone_is_served_at_once_but_for_a_look_now_and_then() -> None:
    async with on() as lane:
        at_once = []
        for at in range(CALM + 4 * PROBE):
            future = submitted(lane, at)
            at_once.append(future.done())
            assert value(await future) == 2.0 * at
            await asyncio.sleep(0)  # a response is counted after it is sent
        assert not any(at_once[:CALM])
        assert at_once.count(False) == CALM + 4


async def test_requests_that_arrive_together_after_single_ones_run_together() -> None:
    async with on() as lane:
        for at in range(CALM + 1):
            await submitted(lane, at)
            await asyncio.sleep(0)
        runs(lane).clear()
        await asyncio.gather(*(submitted(lane, at) for at in range(10)))
        await asyncio.sleep(0)
        assert runs(lane) == [1, 9]
        await asyncio.gather(*(submitted(lane, at) for at in range(10)))
        assert runs(lane) == [1, 9, 10]
        assert sorted(lane._executor._metrics.statistics.batches) == [1, 9, 10]


@pytest.mark.parametrize(("rounds", "expected"), [(1, [1] * 6), (2, [1] * 6), (4, [6])])
async def test_those_that_a_transport_hands_over_one_by_one_run_together_where_it_is_waited_for_them(
    rounds: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LONGEST", 10**10)  # only rounds count, if the machine pauses this process
    async with on(rounds=rounds) as lane:
        responses = []
        for at in range(6):  # one in three rounds of the loop
            responses.append(submitted(lane, at))
            await turns(3)
        assert [value(response) for response in await asyncio.gather(*responses)] == [2.0 * at for at in range(6)]
        assert runs(lane) == expected


async def test_the_first_does_not_wait_for_ever_for_those_that_come_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(range(0, 100 * LONGEST, LONGEST // 8))  # the time when the path looks at its clock
    monkeypatch.setattr(batch, "time", types.SimpleNamespace(perf_counter_ns=lambda: next(now)))
    async with on(rounds=1000) as lane:
        first = submitted(lane, 0)
        while not first.done():
            submitted(lane, 1)
            await asyncio.sleep(0)
        assert 1 < runs(lane)[0] < 8


@pytest.mark.parametrize("wrong", [False, True], ids=["refused", "of another shape"])
async def test_a_run_that_fails_gives_nothing_and_the_others_are_asked_again(wrong: bool) -> None:
    def graph(outputs: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if wrong:
            return [feeds["x"][:, :1]]
        raise ZeroDivisionError

    async with on(graph=graph) as lane:
        assert await asyncio.gather(*(submitted(lane, at) for at in range(3))) == [None, None, None]
        assert lane._executor._metrics.statistics.execution_count == 0


async def test_who_gave_up_is_not_computed() -> None:
    async with on() as lane:
        late, gone = submitted(lane, 1, time.monotonic() - 1), submitted(lane, 2)
        in_time = submitted(lane, 3, time.monotonic() + 600)
        gone.cancel()
        assert value(await in_time) == 6.0
        assert await late is None
        assert runs(lane) == [1]
        await asyncio.sleep(0)
        counted = lane._head.ready.model.metrics
        assert (counted.gone, counted.batches) == (1, [1])


async def test_what_waits_goes_first() -> None:
    async with on() as lane:
        before = asyncio.create_task(lane._executor.run(["y"], {"x": np.ones((1, 2), "<f4")}, 1, Limits()))
        await asyncio.sleep(0)
        assert lane.submit(row(1), b"", None) is None
        await before
        assert value(await submitted(lane, 1)) == 2.0


async def test_a_full_queue_is_full_for_all() -> None:
    async with on(most=3) as lane:
        first = [submitted(lane, at) for at in range(3)]
        assert lane.submit(row(9), b"", None) is None
        assert [value(response) for response in await asyncio.gather(*first)] == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("policy", "plan"),
    [
        (Policy(64, delay=0.1), ExecutionPlan(1, 1024)),
        (Policy(64, preferred=(8,)), ExecutionPlan(1, 1024)),
        (Policy(64, ordered=True), ExecutionPlan(1, 1024)),
        (Policy(64, levels=(PriorityLevel(), PriorityLevel())), ExecutionPlan(1, 1024)),
        (Policy(64, levels=(PriorityLevel(timeout=60.0),)), ExecutionPlan(1, 1024)),
        (Policy(64), ExecutionPlan(1, 0)),
    ],
    ids=["delay", "preferred", "ordered", "priorities", "timeout", "on threads"],
)
async def test_where_there_is_something_to_decide_there_is_no_short_way(policy: Policy, plan: ExecutionPlan) -> None:
    created = executor(Graph(), policy, plan)
    assert not created.inline(1)
    await asyncio.to_thread(created.close)


@pytest.mark.parametrize("policy", [Policy(0), Policy(2)])
async def test_no_run_has_more_rows_than_the_policy_allows(policy: Policy) -> None:
    async with on(policy=policy) as lane:
        responses = await asyncio.gather(*(submitted(lane, at) for at in range(5)))
        assert [value(response) for response in responses] == [0.0, 2.0, 4.0, 6.0, 8.0]
        assert max(runs(lane)) <= max(1, policy.max_rows)


NATIVE = pytest.mark.skipif(method.native_calls() is None, reason="kanserve-kernel is not installed (make kernel)")
CERTIFICATE = "-----BEGIN CERTIFICATE-----"
SAME = {"method", "code", "request_bytes", "response_bytes", "model", "version", "rows", "caller", "event"}
INFER, READ = frozenset({Role.INFER}), frozenset({Role.READ})


def entry(mark: str, roles: frozenset[Role] = INFER, rate: float | None = None, expires: float | None = None) -> Entry:
    principal = Principal(mark, including(roles), expires=expires, mark=token_file.digest(mark))
    return Entry(principal, roles, mark if mark == CERTIFICATE else token_file.digest(mark), rate)


def token(name: str) -> str:
    return f"kanserve-{name * 40}"


def bearer(name: str, scheme: str = "Bearer") -> list[tuple[bytes, bytes]]:
    return [*HEADERS, (b"authorization", f"{scheme} {token(name)}".encode())]


@contextlib.asynccontextmanager
async def accepting(
    root: Path, monkeypatch: pytest.MonkeyPatch, *tokens: Entry, certificates: tuple[Entry, ...] = ()
) -> AsyncIterator[Served]:
    """A server with these callers, whose model has a known head."""
    tokens_file = root / "tokens.toml"
    tokens_file.write_text("")
    gate = Authenticator(Credentials((entry(token("z")), *tokens), certificates), lambda pem: {str(pem)})
    monkeypatch.setattr("kanserve.auth.authenticator.build", lambda settings: gate)
    async with served(root / "models", monkeypatch, native=True, certified=bool(certificates)) as created:
        for _ in range(2):
            await created.call(framed(), headers=bearer("z"))
        yield created


async def status(created: Served, headers: Any) -> int:
    return int((await created.call(framed(), headers=headers))[1][b"grpc-status"])


def native_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GrpcApp, "_call", None)


@NATIVE
async def test_each_caller_is_native_from_its_second_call_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with accepting(tmp_path, monkeypatch, entry(token("a")), entry(token("b"), INFER)) as created:
        asked = [bearer("a"), bearer("b"), bearer("a", "BEARER")]
        assert [await status(created, headers) for headers in asked] == [0, 0, 0]
        native_only(monkeypatch)
        late = [(b"grpc-timeout", b"9S"), (b"x-request-id", b"a")]
        assert [await status(created, [*headers, *late]) for headers in (*asked, *asked)] == [0] * 6


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (HEADERS, 16),
        (bearer("c"), 16),
        ([*bearer("a"), (b"authorization", b"Bearer x")], 16),
        (bearer("r"), 7),
        ([*HEADERS, (b"authorization", b"")], 16),
    ],
    ids=["no token", "unknown", "two credentials", "without the role", "empty"],
)
@NATIVE
async def test_a_caller_without_access_is_rejected_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: Any, expected: int
) -> None:
    async with accepting(tmp_path, monkeypatch, entry(token("a")), entry(token("r"), READ)) as created:
        known = len(created.services.hot.account.callers)
        assert [await status(created, headers) for _ in range(3)] == [expected] * 3
        assert len(created.services.hot.account.callers) == known


@NATIVE
async def test_a_revoked_token_is_rejected_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with accepting(tmp_path, monkeypatch, entry(token("a")), entry(token("b"))) as created:
        assert [await status(created, bearer(name)) for name in "abab"] == [0] * 4
        gate = created.app.guard.gate
        assert gate is not None
        gate.take(Credentials((entry(token("z")), entry(token("b"))), ()))
        assert [await status(created, bearer(name)) for name in "abab"] == [16, 0, 16, 0]
        slow = asyncio.ensure_future(created.call(framed(), headers=[*bearer("b"), REGULAR], slow=5))
        await turns(3)
        gate.take(Credentials((entry(token("z")), entry(token("b"), READ)), ()))
        assert (await slow)[1][b"grpc-status"] == b"0", "it was admitted before"
        assert [await status(created, bearer(name)) for name in "bzb"] == [7, 0, 7]


@NATIVE
async def test_an_expired_token_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = entry(token("a"), expires=time.time() + 3600), entry(token("y"), expires=253402300799.0)  # the year 9999
    async with accepting(tmp_path, monkeypatch, *both) as created:
        assert [await status(created, bearer(name)) for name in "aayy"] == [0] * 4
        callers = created.services.hot.account.callers
        key = b"Bearer " + token("a").encode()
        principal, take, until = callers[key]
        assert until > time.time_ns()
        callers[key] = (principal, take, 1)  # an hour later
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert [await status(created, bearer(name)) for name in "az"] == [16, 0]


@pytest.mark.parametrize("fails", [False, True], ids=["", "that the regular path runs again"])
@NATIVE
async def test_a_rate_limit_counts_native_calls_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async with accepting(tmp_path, monkeypatch, entry(token("a"), rate=2 + 1e-9)) as created:
        gate = created.app.guard.gate
        assert gate is not None
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now)
        gate._buckets[token("a")]._since = now
        if fails:
            monkeypatch.setattr(Batches, "_ran", lambda *_: None)
        assert [await status(created, bearer("a")) for _ in range(4)] == [0, 0, 8, 8]
        monkeypatch.setattr(time, "monotonic", lambda: now + 0.5)
        assert [await status(created, bearer("a")) for _ in range(2)] == [0, 8]


@NATIVE
async def test_a_certificate_is_a_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with accepting(tmp_path, monkeypatch, certificates=(entry(CERTIFICATE),)) as created:
        created.extensions = {"tls": {"client_cert_chain": (CERTIFICATE,)}}
        assert [await status(created, HEADERS) for _ in range(2)] == [0, 0]
        created.extensions = {"tls": {"client_cert_chain": ("of another caller",)}}
        assert [await status(created, HEADERS) for _ in range(2)] == [16, 16]
        created.extensions = {"tls": {"client_cert_chain": ()}}
        assert [await status(created, headers) for headers in (HEADERS, bearer("z"))] == [16, 0]
        created.extensions = {"tls": {"client_cert_chain": (CERTIFICATE,)}}
        native_only(monkeypatch)
        assert await status(created, HEADERS) == 0


@pytest.mark.parametrize("plain", [False, True], ids=["by processors", "as JSON"])
@NATIVE
async def test_lines_of_native_calls_are_those_of_the_regular_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    written: list[dict[str, Any]] = []
    sink = types.SimpleNamespace(write_lines=lambda lines: written.extend(map(json.loads, lines)))
    monkeypatch.setattr(logs, "_sinks", [sink])
    monkeypatch.setattr(logs, "_plain", [plain])  # whatever an earlier test has configured
    async with accepting(tmp_path, monkeypatch, entry(token("a"))) as created:
        asked = [*bearer("a"), (b"x-request-id", b"of the header"), (b"x-request-id", b"id")]
        await created.call(framed(), headers=asked)
        lines = []
        for more in ([], [REGULAR]):
            created.app.guard.lines = AccessLog("sampled:2")
            with structlog.testing.capture_logs() as captured:
                for at in range(4):
                    await created.call(framed(id=f"of message {at}"), headers=[*asked, *more])
                    await turns(2)
            lines.append([{key: line[key] for key in line.keys() & SAME} for line in (*written, *captured)])
            assert [line["request_id"] for line in written] == (["id"] * 2 if plain and not more else [])
            written.clear()
        assert lines[0] == lines[1]
        assert [line["rows"] for line in lines[0]] == [2, 2]


@NATIVE
async def test_a_sampled_call_takes_the_regular_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(tmp_path, monkeypatch, native=True) as created:
        seen: list[bytes | None] = []

        def sampled(trace: bytes | None) -> bool:
            seen.append(trace)
            return trace == TRACE + b"1"

        created.services.hot.sampled = sampled
        created = Served(created.app, created.services, 600.0)
        asyncio.get_running_loop().set_task_factory(created.asgi.task_factory)
        assert await status(created, [*HEADERS, (b"traceparent", TRACE + b"0")]) == 0
        regular, handle = [], GrpcApp._call

        async def noted(*arguments: Any) -> None:
            regular.append(arguments)
            await handle(*arguments)

        monkeypatch.setattr(GrpcApp, "_call", noted)
        for flag in (b"0", b"1", b"0"):
            assert await status(created, [*HEADERS, (b"traceparent", TRACE + flag)]) == 0
        assert await status(created, HEADERS) == 0
        assert len(regular) == 1
        assert seen[-4:] == [TRACE + b"0", TRACE + b"1", TRACE + b"0", None]
