"""Batch run: exports the checkpoints of a folder one after the other and reports each outcome.

Each export is a process of its own (`kanexport.batch.worker`) with bounds on time and
memory: a file that takes too much, or crashes something, costs itself alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanexport.batch import discover, worker
from kanexport.detection import architecture_file, registry
from kanexport.errors import CheckpointError, Crashed, ExportError, LimitExceeded, OptionError
from kanexport.functions import expression
from kanexport.pipeline import ARCHITECTURE, Request
from kanexport.shared.cli import console
from kanexport.shared.cli.console import Exit

FORMAT = 1  # of the report
SECONDS, MEMORY = 300.0, 8192  # for one file: time, and MiB of address space
GRACE = 5.0  # seconds that a process has to clean up


@dataclass(frozen=True, slots=True)
class Row:
    """Outcome of one checkpoint: `result` in the form of `export_request.document`, or `error` as in
    `console.document`."""

    place: str
    name: str
    seconds: float
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    def worst(self, key: str) -> float:
        """The largest error over all groups of rows, such as "outputs_max_rel"."""
        assert self.result is not None
        return float(max(zone[key] for zone in self.result["verification"]["zones"]))


@dataclass(frozen=True, slots=True)
class Report:
    """Outcomes of a batch run. `unused`: options that the user gave and no exported file used."""

    root: Path
    rows: tuple[Row, ...]
    unused: tuple[str, ...]

    @property
    def exported(self) -> int:
        """The number of exported checkpoints."""
        return sum(row.result is not None for row in self.rows)

    @property
    def exit_code(self) -> int:
        """Exit.DONE if everything was exported and all options were used, otherwise Exit.PARTLY."""
        return Exit.DONE if self.exported == len(self.rows) and not self.unused else Exit.PARTLY


def sweep(
    request: Request,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
    advance: Callable[[int, int, str], None] = lambda done, total, place: None,
) -> Report:
    """Export every checkpoint below `request.path`; its name is the prefix of their names.

    `advance(done, total, place)` is called before each and after the last. Raises
    ExportError only for what concerns all of them, before the first.
    """
    _check(request, seconds, memory)
    items = discover.find(request.path, request.repository or Path())
    names = discover.names(items, request.name)
    rows: list[Row] = []
    for at, (item, name) in enumerate(zip(items, names, strict=True)):
        advance(at, len(items), item.place)
        started = time.monotonic()
        if item.fault:
            text, hint = f"{item.path} {item.fault}", "check the permissions of the folder"
            reply = console.document(CheckpointError(text, code="folder-unreadable", hint=hint))
        else:
            item_request = dataclasses.replace(request, path=item.path, name=name, shared=True)
            reply = _run(item_request, seconds, memory * 2**20)
        rows.append(
            Row(item.place, name, round(time.monotonic() - started, 3), reply.get("result"), reply.get("error"))
        )
    advance(len(items), len(items), "")
    return Report(request.path, tuple(rows), _unused(request, rows))


def document(report: Report) -> dict[str, Any]:
    """The report as a JSON document."""
    errors = ("outputs_max_rel", "outputs_max_abs", "edges_max_rel", "edges_max_abs")
    files = []
    for row in report.rows:
        entry: dict[str, Any] = {"path": row.place, "name": row.name, "seconds": row.seconds}
        if row.result is None:
            files.append({**entry, "status": "refused", "error": row.error})
        else:
            largest = {key: row.worst(key) for key in errors}
            files.append({**entry, "status": "exported", **largest, **row.result})
    return {
        "format": FORMAT,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "exporter_version": importlib.metadata.version("kanserve"),
        "root": str(report.root),
        "exported": report.exported,
        "tried": len(report.rows),
        "unused": list(report.unused),
        "files": files,
    }


def _check(request: Request, seconds: float, memory: int) -> None:
    """Raises OptionError for an error that concerns every file, so that it is reported once."""
    dataclasses.replace(request, force=True).target("model").check()
    for name, text in request.facts().functions().items():
        expression.function(name, text)
    if request.family is not None:
        registry.named(request.family)
    if request.architecture is not None:
        architecture_file.load(request.architecture)
    if not 0 < seconds < 10**6:
        raise OptionError(
            f"--time-limit is {seconds} seconds, expected a positive number",
            code="option-out-of-range",
            hint="pass a positive number of seconds",
        )
    if not 256 <= memory < 10**8:
        raise OptionError(
            f"--memory-limit is {memory} MiB, expected 256 or more",
            code="option-out-of-range",
            hint="pass at least --memory-limit 256",
        )


def _unused(request: Request, rows: list[Row]) -> tuple[str, ...]:
    """Options that no exported file used. The report lists them, because a misspelt option has no effect."""
    results = [row.result for row in rows if row.result is not None]
    used = {key for result in results for key in result["options"]["given"]}
    unused = [
        f"--{key}" if " " in key else f"--option {key}" for key in request.facts().explicit if key not in used
    ]  # as flags: "--option base_fun", "--symbolic 0,1,2"
    reasons = {result["family_reason"] for result in results}
    if request.architecture is not None and ARCHITECTURE not in reasons:
        unused.append("--architecture")
    return tuple(unused)


def _run(request: Request, seconds: float, memory: int) -> dict[str, Any]:
    """One export in a process: {"result": ...} or {"error": ...}."""
    # -P: a file called json.py in the current folder is not to be imported.
    command = [sys.executable, "-P", "-m", "kanexport.batch.worker"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process, _ended(process):
        try:
            out, err = process.communicate(worker.encode(request, memory), timeout=seconds)
        except subprocess.TimeoutExpired:
            text, hint = f"the export takes longer than {seconds:g} seconds", "raise --time-limit"
            return console.document(LimitExceeded(text, code="time-limit-exceeded", hint=hint))
    with contextlib.suppress(ValueError):
        reply = json.loads(out)
        if isinstance(reply, dict) and process.returncode == 0:
            return reply
    return console.document(_crash(process.returncode, err))


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the process: a signal requests it first, because the process may be about to rename a folder."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        process.kill()


def _crash(code: int, err: bytes) -> ExportError:
    last = (err.decode(errors="replace").strip().splitlines() or ["no message"])[-1][:200]
    if code == -signal.SIGKILL:
        return LimitExceeded(
            "the export was killed, probably because the machine ran out of memory",
            code="memory-limit-exceeded",
            hint="free memory, or export the file on a larger machine",
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Crashed(f"the exporter ended with {how}: {last}")
