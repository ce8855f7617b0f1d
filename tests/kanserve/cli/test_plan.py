"""`kanserve plan`: measurements of real servers. No test checks a time or a rate."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from kanserve.capacity import usage
from tests.support.command_line import CLEAN, COMMAND, Server, document, kanserve
from tests.support.server_process import wait_until

EASY = ("--rate", 100, "--p99", "5s", "--seconds", 3)


def test_a_plan_for_a_model_of_a_repository(repository: Path, tmp_path: Path) -> None:
    plan = document(
        kanserve("plan", "tiny", "--repository", repository, *EASY, "--plot", tmp_path / "curve.svg", "--json")
    )
    assert plan["plan"]["replicas"] % 3 == 0
    assert plan["plan"]["rate"] > 0
    assert plan["memory"]["peak"] > 2**20
    assert plan["memory"]["files"] > 0
    assert any(item["holds"] for item in plan["curve"])
    assert sum(item["server_cores"] for item in plan["curve"]) > 0
    assert plan["values"]["replicas"] == plan["plan"]["replicas"]
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_a_plan_for_a_server_in_words(server: Server) -> None:
    done = kanserve("plan", "tiny", *EASY, "--url", server.url, "--rows", 4, "--zones", 1, "--without-deadline")
    assert done.returncode == 0, done.stderr
    assert "tiny, 4 rows per request" in done.stdout
    assert f"server at {server.url}" in done.stdout
    assert "rows/s per busy core" in done.stdout
    values = done.stdout.partition("values of the Helm chart:\n")[2]
    assert yaml.safe_load(values)["autoscaling"]["minReplicas"] == 2


def test_a_plan_is_simulated(server: Server) -> None:
    words = ("plan", "tiny", *EASY, "--url", server.url, "--simulate-rate", "1e4", "--pod-start", "30s")
    simulation = document(kanserve(*words, "--json"))["simulation"]
    assert simulation["fleet"]["pod_start"] == 30
    assert {phase["phase"] for phase in simulation["phases"]} >= {"night", "zone lost", "burst"}
    assert simulation["requests"] > 1e6
    assert simulation["checks"]
    assert simulation["service"]["batch"] + simulation["service"]["request"] > 0


def test_a_goal_that_no_rate_meets(server: Server) -> None:
    done = kanserve("plan", "tiny", "--rate", 1, "--p99", "1us", "--seconds", 2, "--url", server.url)
    assert done.returncode == 1
    assert "error[capacity-goal-below-floor]: the p99 is " in done.stderr
    assert "almost without load, more than --p99 0.001ms" in done.stderr


def test_an_interruption_ends_all_processes_silently(repository: Path) -> None:
    """A terminal sends SIGINT to the command, its server and its load generator."""
    command = [*COMMAND, "plan", "tiny", "--repository", str(repository), "--rate", "100", "--p99", "5s"]
    # A suite in the background ignores SIGINT, and so do the processes that it starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=CLEAN, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:

        def generating() -> bool:
            others = usage.descendants([process.pid]) - {process.pid}
            lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in others if Path(f"/proc/{pid}").is_dir()]
            return any(b"capacity.generator" in line for line in lines)

        wait_until(generating)
        others = usage.descendants([process.pid]) - {process.pid}
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    wait_until(lambda: not any(Path(f"/proc/{pid}").is_dir() for pid in others))


WRONG = {
    "no unit": (("--p99", "5"), "expected a time with a unit"),
    "no time": (("--p99", "0ms"), "expected a time with a unit"),
    "no rate": (("--rate", "0"), "expected a number of requests per second above 0"),
    "no zone": (("--zones", "0"), "expected a whole number from 1 to 100"),
    "cores": (("--cores", "1000"), f"this machine has {len(os.sched_getaffinity(0))} for this process"),
    "another model": (("--model-version", "7"), "unknown version '7' of tiny"),
    "a picture": (("--plot", "curve.txt"), "--plot curve.txt: unknown file format .txt"),
    "several servers": (("--url", "127.0.0.1:1,127.0.0.1:2"), "kanserve plan needs one server"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments(repository: Path, what: str) -> None:
    words, text = WRONG[what]
    done = kanserve("plan", "tiny", "--repository", repository, *EASY, *words)
    assert done.returncode == 2
    assert text in done.stderr
    assert "Traceback" not in done.stderr
