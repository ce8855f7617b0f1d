"""`kanserve plan`: measurements of real servers. No test checks a time or a rate."""

import contextlib
import os
import shlex
import signal
import subprocess
from pathlib import Path

import yaml

from kanserve.contrib.capacity import usage
from tests.support import forked_process
from tests.support.command_line import CLEAN, COMMAND, Server, wrong_refusals
from tests.support.tiers import full
from tests.support.wait import until

EASY = ("--rate", 100, "--p99", "5s", "--seconds", 3)


def test_a_plan_for_a_server_in_words(server: Server) -> None:
    text = server.shown("plan", "tiny", *EASY, "--rows", 4, "--zones", 1)
    for words in ("tiny, 4 rows per request", f"server at {server.url}", "rows/s per busy core"):
        assert words in text
    values = text.partition("values of the Helm chart:\n")[2]
    assert yaml.safe_load(values)["autoscaling"]["minReplicas"] == 2


@full("load")
def test_an_interruption_ends_all_processes_silently(repository: Path) -> None:
    """A terminal sends SIGINT to the processes in the group of the command."""
    command = [*COMMAND, "plan", "tiny", "--repository", str(repository), "--rate", "100", "--p99", "5s"]
    with forked_process.popen(command, stderr=subprocess.PIPE, env=CLEAN) as process:

        def generating() -> set[int]:
            others = usage.descendants([process.pid]) - {process.pid}
            lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in others if Path(f"/proc/{pid}").is_dir()]
            return others if any(b"capacity.generator" in line for line in lines) else set()

        others = until(generating)
        group = os.getpgid(process.pid)
        for pid in (process.pid, *others):
            with contextlib.suppress(ProcessLookupError):  # some end by themselves
                if os.getpgid(pid) == group:
                    os.kill(pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    until(lambda: not any(Path(f"/proc/{pid}").is_dir() for pid in others))


def test_wrong_arguments(repository: Path) -> None:
    cases = {
        "--p99 5": "expected a time with a unit",
        "--p99 0ms": "expected a time with a unit",
        "--rate 0": "expected a number of requests per second above 0",
        "--zones 0": "expected a whole number from 1 to 100",
        "--cores 1000": f"this machine has {len(os.sched_getaffinity(0))} for this process",
        "--model-version 7": "unknown version '7' of tiny",
        "--plot curve.txt": "--plot curve.txt: unknown file format .txt",
        "--url 127.0.0.1:1,127.0.0.1:2": "kanserve plan needs one server",
    }
    common = shlex.join(map(str, ("plan", "tiny", "--repository", repository, *EASY)))
    assert wrong_refusals({f"{common} {words}": text for words, text in cases.items()}) == []
