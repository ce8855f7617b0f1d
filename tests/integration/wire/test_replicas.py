"""Clients of several servers: a new server gets its share, a server that exits or is not ready costs no call."""

import asyncio
import contextlib
import operator
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kanserve import AsyncClient, Client, ClientError
from kanserve.client import base, control, targets
from kanserve.client.errors import ArgumentError
from tests.support import toy_model
from tests.support.model_stores import resolving
from tests.support.reload_tools import handled
from tests.support.server_process import Server, serving
from tests.support.tiers import full
from tests.support.wait import until, until_async

pytestmark = full("peer")

ROWS = np.zeros((1, 3), np.float32)
AGE = 1.0  # seconds
SHARE = 100  # calls per server in a measurement


def calls(server: Server) -> float:
    return handled(server, "ModelInfer")


async def _send(client: AsyncClient, left: Iterator[int], at_once: int = 8) -> list[str]:
    """The errors of so many calls."""
    errors = list[str]()

    async def loop() -> None:
        for _ in left:
            try:
                await client.infer(model, ROWS)
            except ClientError as error:
                errors.append(str(error))

    model = await client.model("toy")
    await asyncio.gather(*(loop() for _ in range(at_once)))
    return errors


def test_one_more_server_gets_its_share_and_one_that_is_killed_costs_no_call(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_model.write(tmp_path)
    monkeypatch.setattr(targets, "RESOLVE_SECONDS", 0.2)
    settings: dict[str, Any] = {"transport": transport, "max_connection_age_seconds": AGE}
    with contextlib.ExitStack() as stack, resolving("127.0.0.1", "127.0.0.2") as names:
        servers = [stack.enter_context(serving(tmp_path, host="127.0.0.1", **settings))]
        for last in (2, 3):
            more = serving(tmp_path, host=f"127.0.0.{last}", grpc_port=servers[0].port, **settings)
            servers.append(stack.enter_context(more))

        async def shared(client: AsyncClient) -> bool:
            before = [calls(server) for server in servers]
            assert not await _send(client, iter(range(3 * SHARE)))
            return min(calls(server) - count for server, count in zip(servers, before, strict=True)) > SHARE / 3

        async def run() -> None:
            async with AsyncClient(names.target(servers[0].port), retries=8) as client:
                assert not await _send(client, iter(range(SHARE)))
                assert calls(servers[2]) == 0
                names.addresses.append("127.0.0.3")
                while not await shared(client):  # until each connection is ready
                    continue
                left = iter(range(3 * SHARE))
                sending = asyncio.create_task(_send(client, left))
                await until_async(lambda: operator.length_hint(left) < 2.5 * SHARE)
                servers[0].process.kill()
                assert not await sending
                assert not await _send(client, iter(range(SHARE)))

        asyncio.run(run())


def test_a_server_that_is_not_ready_gets_no_call(tmp_path: Path) -> None:
    toy_model.write(tmp_path)
    with serving(tmp_path, drain_delay_seconds=200) as first, serving(tmp_path) as second:
        addresses = [first.address, "127.0.0.1:1", second.address]
        with Client(addresses, retries=0) as client, Client(first.address) as direct:
            model = client.model("toy")
            until(lambda: client.infer(model, ROWS) and calls(first) and calls(second))
            with pytest.raises(ArgumentError, match="PromoteModel needs one server"):
                control.promote(client, "toy")
            first.process.send_signal(signal.SIGTERM)
            until(lambda: direct.health() == "NOT_SERVING")

            def shunned() -> bool:
                before = calls(first)
                for _ in range(20):
                    client.infer(model, ROWS)
                return calls(first) == before

            until(shunned)  # the client has the same news a moment later
            direct.infer(model, ROWS)  # it still responds
            second.process.kill()
            until(lambda: second.process.poll() is not None)
            until(lambda: "no server at" in refusal(client, model))


def refusal(client: Client, model: Any) -> str:
    """The error of a call; empty if it succeeds."""
    try:
        client.infer(model, ROWS)
    except ClientError as error:
        return str(error)
    return ""


def test_a_server_that_hangs_costs_time_and_no_call(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_model.write(tmp_path)
    monkeypatch.setattr(base, "PING_SECONDS", 0.3)
    monkeypatch.setattr(base, "PONG_SECONDS", 0.5)
    with (
        serving(tmp_path, transport=transport) as first,
        serving(tmp_path, transport=transport) as second,
        Client([first.address, second.address], timeout=120) as client,
    ):
        model = client.model("toy")
        while not (calls(first) and calls(second)):
            client.infer(model, ROWS)
        first.process.send_signal(signal.SIGSTOP)
        for _ in range(10):
            client.infer(model, ROWS)


def test_pings_of_a_client_that_waits_close_no_connection(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one server computes, the connection to the other is idle."""
    toy_model.write_slow(tmp_path, steps=4)
    monkeypatch.setattr(base, "PING_SECONDS", 0.1)
    with (
        serving(tmp_path, transport=transport, plain_onnx=True) as first,
        serving(tmp_path, transport=transport, plain_onnx=True) as second,
        Client([first.address, second.address], retries=0) as client,
    ):
        model = client.model("slow")
        for _ in range(8):
            client.infer(model, np.zeros((1, 1), np.float32))
