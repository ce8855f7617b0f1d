"""Hostile checkpoints: exports of the corpus in tests/support/hostile_files.py, in a monitored process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.reliability.base import Outcome, Row, Scale
from tools.reliability.record import ROOT

SECONDS, MEMORY = 2.0, 500.0  # of processor time for each file; MiB for all


def tried(folder: Path) -> dict[str, Any]:
    """The report of the export process, and whether a canary file exists next to the corpus."""
    write = "import sys, pathlib as p; from tests.support import hostile_files as h; f = p.Path(sys.argv[1])"
    make = f"{write}; h.write(f, h.corpus(f / 'canary'))"
    subprocess.run([sys.executable, "-c", make, str(folder)], check=True, capture_output=True, cwd=ROOT)
    command = [sys.executable, str(ROOT / "tests" / "support" / "hostile_checkpoints.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True, cwd=ROOT)
    return {**json.loads(done.stdout), "canary": (folder / "canary").exists()}


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """The corpus is the same in both forms."""
    with tempfile.TemporaryDirectory() as folder:
        reported = tried(Path(folder))
    results = reported["results"]
    untyped = [item["name"] for item in results if item["error"] is None or item["error"]["kind"].startswith("UNTYPED")]
    did = [item["name"] for item in results if item["seen"]]
    slowest, peak = max(item["seconds"] for item in results), reported["peak_kib"] / 1024
    figures = {
        "files": len(results),
        "typed errors": len(results) - len(untyped),
        "that ran, loaded or wrote something": len(did),
        "canary files": int(reported["canary"]),
        "slowest in s": round(slowest, 2),
        "peak in MiB": round(peak),
    }
    good = not untyped and not did and not reported["canary"] and slowest < SECONDS and peak < MEMORY
    return Outcome(figures, good, len(results), ", ".join([*untyped, *did][:5]))


ROW = Row(
    number="8",
    title="Malicious checkpoints",
    method="Malicious pickle, zip, YAML, safetensors and architecture files are exported under Python's audit hooks.",
    goal="No canary file, 100% typed errors, less than 2 s and 500 MiB per file.",
    result=(
        "{typed errors} of {files} typed errors, {canary files} canary files, at most {slowest in s} s and {peak "
        "in MiB} MiB."
    ),
    guarded_by=("tests/integration/test_hostile_checkpoints.py", "tests/kanexport/formats/test_pickle_data.py"),
    run=run,
)
