"""Callers of native calls: each is resolved once, and never after its credential is revoked, changed or expired."""

import asyncio
import contextlib
import json
import time
import types
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from kanserve.auth import token_file
from kanserve.auth.authenticator import Authenticator
from kanserve.auth.roles import Principal, Role, including
from kanserve.auth.token_file import Credentials, Entry
from kanserve.grpc_api.access_log import AccessLog
from kanserve.grpc_api.hot_path import method
from kanserve.grpc_api.hot_path.batch import Batches
from kanserve.observability import logs
from kanserve.transport.asgi import GrpcApp
from tests.kanserve.transport.test_asgi import HEADERS, REGULAR, TRACE, Served, framed, served
from tests.support.wait import turns

pytestmark = pytest.mark.skipif(method.native_calls() is None, reason="kanserve-kernel is not installed (make kernel)")
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
async def on(
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


async def test_each_caller_is_native_from_its_second_call_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with on(tmp_path, monkeypatch, entry(token("a")), entry(token("b"), INFER)) as created:
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
async def test_a_caller_without_access_is_rejected_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: Any, expected: int
) -> None:
    async with on(tmp_path, monkeypatch, entry(token("a")), entry(token("r"), READ)) as created:
        known = len(created.services.hot.account.callers)
        assert [await status(created, headers) for _ in range(3)] == [expected] * 3
        assert len(created.services.hot.account.callers) == known


async def test_a_revoked_token_is_rejected_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with on(tmp_path, monkeypatch, entry(token("a")), entry(token("b"))) as created:
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


async def test_an_expired_token_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = entry(token("a"), expires=time.time() + 3600), entry(token("y"), expires=253402300799.0)  # the year 9999
    async with on(tmp_path, monkeypatch, *both) as created:
        assert [await status(created, bearer(name)) for name in "aayy"] == [0] * 4
        callers = created.services.hot.account.callers
        key = b"Bearer " + token("a").encode()
        principal, take, until = callers[key]
        assert until > time.time_ns()
        callers[key] = (principal, take, 1)  # an hour later
        monkeypatch.setattr(time, "time", lambda: 4e9)
        assert [await status(created, bearer(name)) for name in "az"] == [16, 0]


@pytest.mark.parametrize("fails", [False, True], ids=["", "that the regular path runs again"])
async def test_a_rate_limit_counts_native_calls_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    async with on(tmp_path, monkeypatch, entry(token("a"), rate=2 + 1e-9)) as created:
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


async def test_a_certificate_is_a_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with on(tmp_path, monkeypatch, certificates=(entry(CERTIFICATE),)) as created:
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
async def test_lines_of_native_calls_are_those_of_the_regular_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    written: list[dict[str, Any]] = []
    sink = types.SimpleNamespace(write_lines=lambda lines: written.extend(map(json.loads, lines)))
    monkeypatch.setattr(logs, "_sinks", [sink])
    monkeypatch.setattr(logs, "_plain", [plain])  # whatever an earlier test has configured
    async with on(tmp_path, monkeypatch, entry(token("a"))) as created:
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
