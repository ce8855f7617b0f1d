"""onnxruntime's telemetry stays off: no file, no thread, no connection attempt.

Each test has a control that imports onnxruntime before kanserve can disable telemetry. If a control fails,
onnxruntime has changed, and these tests no longer look for the right signs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiers import full

FOLDER = Path(__file__).parents[1] / "support"
CHECKPOINT = FOLDER.parent / "golden" / "checkpoints" / "efficient-kan-digits" / "model.pt"
STARTED = """
import importlib, os, sys, numpy
before = len(os.listdir("/proc/self/task"))
importlib.import_module(sys.argv[1])
print(len(os.listdir("/proc/self/task")) - before)
"""


def namespace() -> list[str] | None:
    """The command that starts another in a separate network namespace, if this machine permits one."""
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        try:
            if subprocess.run([*command, "true"], capture_output=True, timeout=60).returncode == 0:
                return command
        except FileNotFoundError:
            return None
    return None


def fresh(home: Path) -> dict[str, str]:
    """An environment with an empty home that says nothing about telemetry.

    Nor whether this is a CI's machine: onnxruntime keeps quiet by itself where CI is set.
    """
    home.mkdir()
    kept = ("PATH", "PYTHON", "LD_", "OPENBLAS_", "COVERAGE_", "COV_")
    return {k: v for k, v in os.environ.items() if k.startswith(kept)} | {"HOME": str(home), "TMPDIR": str(home)}


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def started(module: str, environment: dict[str, str]) -> int:
    """How many threads importing it starts, after numpy's."""
    done = subprocess.run([sys.executable, "-c", STARTED, module], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(
    ("module", "more"),
    [
        pytest.param("kanexport.verify.graph_runner", {}, marks=full("peer")),
        ("kanserve.runtime.ort", {"ORT_DISABLE_TELEMETRY": "0"}),  # a variable that cannot switch it on
    ],
)
def test_importing_the_runtime_starts_no_thread_and_no_file(module: str, more: dict[str, str], tmp_path: Path) -> None:
    assert started(module, fresh(tmp_path / "quiet") | more) == 0
    assert files(tmp_path / "quiet") == []


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], list[str]]]:
    return seen({kind: tmp_path_factory.mktemp(kind) for kind in ("quiet", "loud")})


def seen(folders: dict[str, Path]) -> dict[str, tuple[dict[str, Any], list[str]]]:
    """Run the quiet and the loud `telemetry_probe.py` in parallel. Return their reports and their home files."""
    inside = namespace()
    running = {}
    for kind, folder in folders.items():
        folder.mkdir(exist_ok=True)
        environment = fresh(folder / "home") | {"OWN_NAMESPACE": str(int(inside is not None))}
        command = [*(inside or []), sys.executable, str(FOLDER / "telemetry_probe.py"), str(folder), str(CHECKPOINT)]
        process = subprocess.Popen(
            [*command, *(["loud"] if kind == "loud" else [])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running[kind] = (process, folder / "home")
    result = {}
    for kind, (process, home) in running.items():
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        result[kind] = (json.loads(output), files(home))
    return result


@full("peer")
def test_an_export_a_server_and_a_request_leave_nothing(scenes: dict[str, tuple[dict[str, Any], list[str]]]) -> None:
    facts, left = scenes["quiet"]
    assert (left, facts["server_opened"], facts["server_code"]) == ([], [], 0)
    control, loud = scenes["loud"]
    assert [name for name in loud if name.endswith("/deviceid")]
    assert [name for name in control["server_opened"] if name.endswith("onnxruntime.db")]
    assert facts["export_threads"] < control["export_threads"]


@full("peer")
def test_nobody_is_asked_over_the_network(scenes: dict[str, tuple[dict[str, Any], list[str]]]) -> None:
    """The control looks a host up nine seconds after the import; the quiet server is watched longer than that."""
    if scenes["quiet"][0]["without_route"] is None:
        pytest.skip("this machine permits no separate network namespace (unshare --net)")
    assert scenes["quiet"][0]["without_route"] == 0
    assert scenes["loud"][0]["without_route"] > 0
