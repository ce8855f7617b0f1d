"""Telemetry: an export, a server and a request in a fresh HOME without a network leave no file or connection."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.integration.test_no_telemetry import files, fresh, namespace, seen, started
from tools.reliability.base import NotRun, Outcome, Row, Scale

MODULES = ("kanexport.verify.graph_runner", "kanserve.runtime.ort", "kanserve.server.app")


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """Figures, next to those of a control that imports onnxruntime with its telemetry enabled."""
    if namespace() is None:
        raise NotRun("no network namespace of its own is permitted here (unshare --net)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        threads = {module: started(module, fresh(folder / module)) for module in MODULES}
        left = [path for module in MODULES for path in files(folder / module)]
        control = started("onnxruntime", fresh(folder / "control"))
        scenes = seen({kind: folder / kind for kind in ("quiet", "loud")})
    (quiet, at_home), (loud, written) = scenes["quiet"], scenes["loud"]
    figures = {
        "files written": len(left) + len(at_home) + len(quiet["server_opened"]),
        "threads of imports": sum(threads.values()),
        "attempts to reach anybody": quiet["without_route"],
        "control: files": len(written) + len(loud["server_opened"]),
        "control: threads": control,
        "control: attempts": loud["without_route"],
    }
    silent = not any(list(figures.values())[:3])
    heard = all(list(figures.values())[3:])
    notes = "" if heard else "the control was silent too: onnxruntime has changed, and this proves nothing"
    fewer = quiet["export_threads"] < loud["export_threads"]
    return Outcome(figures, silent and heard and fewer and quiet["server_code"] == 0, 1, notes)


ROW = Row(
    number="36",
    title="Telemetry",
    method=(
        "An export, a server and a request run for 12 s with a fresh HOME in a network namespace whose kernel "
        "counts outgoing packets. A control run enables onnxruntime's telemetry."
    ),
    goal="No file, no thread, no connection.",
    result=(
        "{files written} files, {threads of imports} threads, {attempts to reach anybody} connections. Control: "
        "{control: files}, {control: threads}, {control: attempts}."
    ),
    guarded_by=("tests/integration/test_no_telemetry.py",),
    run=run,
)
