"""Rollout in waves over real servers with traffic: a good version reaches all, a bad one stops and is rolled back."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kanserve.client.control import RequestCounts
from kanserve.client.rollout import failures_allowed, waves
from tests.kanserve.analysis.test_drift import ROWS, seen
from tests.support import forked_process, reload_tools, toy_model
from tests.support.command_line import CLEAN, COMMAND, kanserve, wrong_refusals
from tests.support.server_process import Server, serving
from tests.support.wait import until

GOOD, OTHER, DRIFTS = "2", "3", "4"


@pytest.fixture
def three(tmp_path: Path) -> Iterator[list[Server]]:
    """Three servers of a folder. Version 2 gives the outputs of version 1, version 3 gives others, and the traffic is
    far from the baseline of version 4."""
    for version, factor in ((1, 1.0), (2, 1.0), (3, -1.0), (4, 1.0)):
        reload_tools.write(tmp_path / "toy" / str(version), factor, version=version)
    toy_model.edit(tmp_path / "toy" / DRIFTS, baseline=seen(ROWS[:200] + 5))
    (tmp_path / "toy" / "default").write_text("1\n")
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(serving(tmp_path, statistics="full", repository_poll_seconds=0.1)) for _ in range(3)
        ]
        yield servers


def addresses(servers: list[Server]) -> str:
    return ",".join(server.address for server in servers)


def promoted(servers: list[Server]) -> list[int]:
    """The default versions that the servers changed to by a call, one after another."""
    lines = [line for server in servers for line in reload_tools.events(server, "default_version_changed")]
    return [line["version"] for line in sorted(lines, key=lambda line: line["timestamp"]) if line["how"] == "promote"]


def test_a_version_without_a_difference_reaches_all_servers(three: list[Server], tmp_path: Path) -> None:
    how = ("--waves", "30%,100%", "--rows", 20, "--url", addresses(three), "--repository", tmp_path, "--json")
    with contextlib.ExitStack() as stack:
        for server in three:
            stack.enter_context(reload_tools.Clients(server, 1, {}))
        done = kanserve("promote", "toy", GOOD, *how)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    steps = ["wave", "compared", "promoted", "served"]
    assert [event["event"] for event in events if event["event"] != "waiting"] == [*steps, *steps, "done"]
    assert [event["servers"] for event in events if event["event"] == "promoted"] == [
        [three[0].address],
        [server.address for server in three[1:]],
    ]
    for event in events:
        assert event["event"] not in ("compared", "served") or event["rows"] >= 20
        assert event.get("difference", 0) == event.get("failures", 0) == 0
    assert (tmp_path / "toy" / "default").read_text().split()[0] == GOOD
    for server in three:
        server.logged("default_version_changed", version=2, how="promote")


def test_a_bad_version_stops_and_each_server_keeps_its_version(three: list[Server]) -> None:
    """Other outputs stop the first wave before a client gets one. Drift stops it after 20 rows."""
    how = ("--waves", "30%,100%", "--rows", 20, "--url", addresses(three))
    with reload_tools.Clients(three[0], 1, {}) as clients:
        other = kanserve("promote", "toy", OTHER, *how)
        assert {version for version, _ in clients.seen} == {1}
        drifted = kanserve("promote", "toy", DRIFTS, *how)
    for done, reason, state in (
        (other, "rows are out of tolerance 1e-05, the largest difference is", "no server was changed"),
        (drifted, "the traffic of version 4 drifted from its baseline", "rolled back 1 server to version 1"),
    ):
        assert done.returncode == 1
        assert "error[rollout-stopped]" in done.stderr
        assert reason in done.stderr
        assert done.stdout.splitlines()[-1] == state
    three[0].logged("default_version_changed", count=2, how="promote")
    assert promoted(three) == [4, 1]
    reports = [kanserve("shadow", "toy", "--url", server.address).stdout for server in three]
    assert "stopped" in reports[0]
    assert reports[1:] == ["", ""], "no wave reached the others"


def test_a_rollout_without_traffic_waits_and_ends_with_a_stated_state(three: list[Server]) -> None:
    words = [*COMMAND, "promote", "toy", GOOD, "--waves", "100%", "--url", addresses(three)]
    with forked_process.popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=CLEAN) as process:
        for server in three:
            server.logged("shadow_started")
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=120)
    assert (process.returncode, text.splitlines()[-1]) == (130, "no server was changed")
    for server in three:
        until(lambda server=server: reload_tools.events(server, "shadow_stopped"))


def test_what_cannot_be_rolled_out(three: list[Server], tmp_path: Path) -> None:
    cases = {
        "promote toy --waves 100%": "error[argument-missing]",
        "promote toy 9 --waves 100% --repository nowhere": "nowhere",
        "promote toy 2 --waves 50%": "expected ascending shares up to 100%",
        "promote toy 2 --waves 60%,50%,100%": "expected ascending shares",
        "promote toy 2": "error[one-server-required]",
    }
    assert wrong_refusals(cases, "--url", addresses(three)) == []
    stopped = kanserve("promote", "toy", "9", "--waves", "100%", "--url", addresses(three))
    assert (stopped.returncode, stopped.stdout) == (1, "no server was changed\n")
    assert "version 9 of 'toy' is missing, expected READY" in stopped.stderr
    assert promoted(three) == []


def test_waves_and_the_failures_that_are_usual() -> None:
    assert waves("abcd", (25, 100)) == ["a", "bcd"]
    assert waves("abc", (10, 20, 100)) == ["a", "bc"]
    assert waves("a", (1, 50, 100)) == ["a"]
    for usual, requests, allowed in (((1000, 0), 100, 1), ((0, 0), 100, 1), ((1000, 10), 100, 5), ((10, 10), 25, 41)):
        assert failures_allowed(RequestCounts(*usual, 0), requests) == allowed
