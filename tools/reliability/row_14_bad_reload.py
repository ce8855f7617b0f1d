"""Bad versions: the old version keeps serving, the log has each reason once, and a repaired version loads at once."""

from __future__ import annotations

import collections
import itertools
import shutil
import tempfile
import time
from pathlib import Path

from kanexport.shared import manifest as manifests
from tests.support import reload_tools, toy_model
from tests.support.server_process import serving
from tests.support.wait import until
from tools.reliability.base import Outcome, Row, Scale, suite

POLL = 0.1
SLACK = 1.0  # seconds for reading, loading and asking on a busy machine
MODEL = manifests.MODEL_FILE


def reference(directory: Path) -> None:
    """Numbers that are not the graph's."""
    toy_model.edit(
        directory, reference=manifests.Reference(inputs=((1.0, 2.0, 3.0),), outputs=((1.0, 2.0),), tolerance=1e-5)
    )


def half(directory: Path) -> None:
    """As if the copy had stopped in the middle: the last files are missing."""
    for path in sorted(directory.iterdir())[2:]:
        if path.name != manifests.FILE_NAME:
            path.unlink()


def swapped(directory: Path) -> None:
    """Another model's files, all at once: seen half-way they would be missing first."""
    created = reload_tools.write(directory.with_name(".another"), name="another")
    reload_tools.swap(created, directory)
    shutil.rmtree(created)


def flipped(directory: Path) -> None:
    """One bit of the graph."""
    data = bytearray((directory / MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (directory / MODEL).write_bytes(data)


# Damage to the files, and the reason that the metric has for it; "" if there is no version to load.
KINDS = {
    "half-written": (half, "integrity"),
    "truncated": (lambda d: reload_tools.truncate(d / MODEL, 100), "integrity"),
    "emptied": (lambda d: reload_tools.truncate(d / "edges_l1.onnx"), "integrity"),
    "wrong hash": (flipped, "integrity"),
    "manifest truncated": (lambda d: reload_tools.truncate(d / manifests.FILE_NAME, 200), "manifest"),
    "another model": (swapped, "manifest"),
    "numbers that are not listed": (lambda d: (d / "numbers.bin").write_bytes(b"0"), "integrity"),
    "wrong numbers": (reference, "reference"),
    "deleted": (shutil.rmtree, ""),
}


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The server detects each, then the good files return. Two clients send requests meanwhile."""
    times = scale.of(len(KINDS), 200)
    expected: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        good, repository = reload_tools.write(Path(folder, "good")), Path(folder, "models")
        directory = repository / "toy" / "1"
        reload_tools.swap(good, directory)
        settings = {"repository_poll_seconds": POLL, "transport": transport, "access_log": "none"}
        allowed = {1: {reload_tools.responses(1.0)}}
        with serving(repository, **settings) as server, reload_tools.Clients(server, 2, allowed) as asking:
            for at, (damage, reason) in enumerate(itertools.islice(itertools.cycle(KINDS.values()), times)):
                damage(directory)
                until(lambda: reload_tools.index(server)["toy", "1"][1] != "")
                expected[reason] += bool(reason)
                reload_tools.swap(good, directory)
                begun = time.monotonic()
                until(lambda: reload_tools.index(server)["toy", "1"] == ("READY", ""))
                slowest = max(slowest, time.monotonic() - begun)
                scale.tell(at + 1, times)
            counted = {
                reason: int(reload_tools.shown(server, f'kanserve_model_load_failures_total{{reason="{reason}"}}'))
                for reason in expected
                if reason
            }
            lines = len(reload_tools.events(server, "model_load_failed", "model_files_missing"))
            loads = reload_tools.shown(server, 'kanserve_model_loads_total{model="toy",version="1"}')
            ready = reload_tools.ready(server)
    figures = {
        "bad versions": times,
        "answered": asking.served,
        "failed": len(asking.failed),
        "wrong": asking.wrong,
        "counted": sum(counted.values()),
        "log lines": lines,
        "slowest return in s": round(slowest, 2),
        "poll in s": POLL,
    }
    right = counted == {reason: count for reason, count in expected.items() if reason} and lines == times and loads == 1
    soon = slowest < POLL + SLACK or not scale.full  # a busy machine says nothing about the server
    passed = not asking.failed and not asking.wrong and ready and right and soon
    return Outcome(figures, passed, times, "; ".join(sorted(set(asking.failed))[:3]) or ("" if right else str(counted)))


ROW = Row(
    number="14",
    title="Failed reloads",
    method="The repository gets 200 versions that are incomplete, truncated, swapped, deleted or have a wrong hash.",
    goal=(
        "No failed request. The old version keeps serving, the metric counts each reason, and recovery takes one scan."
    ),
    result=(
        "{answered} responses: {failed} failed, {wrong} wrong. {log lines} log lines for {bad versions} "
        "versions, slowest recovery {slowest return in s} s."
    ),
    wire=True,
    run=run,
)
test_row = suite(ROW)
