"""Records of test runs with commit, machine and versions: one JSON line per run of a reliability test."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "reliability"
RESULTS = FOLDER / "reliability.jsonl"
WRITTEN = tuple(
    f"docs/reliability/{name}" for name in ("reliability.jsonl", "index.md", "tests.md", "other-servers.md")
)
PACKAGES = ("onnxruntime", "grpcio", "h2corn", "protobuf", "numpy")
PASS, FAIL, NOT_RUN = "pass", "fail", "not run"


@dataclass(frozen=True, slots=True)
class Record:
    """One run of one reliability test. `verdict`: pass, fail or not run."""

    row: str
    transport: str
    form: str  # full or short
    verdict: str
    seed: int
    seconds: float
    count: int
    figures: dict[str, Any] = field(default_factory=dict)
    notes: str = ""
    commit: str = ""
    date: str = ""
    machine: str = ""
    versions: str = ""
    load: float = 0.0  # of the machine, others' work included, when it ended


def stamped(**fields: Any) -> Record:
    """A record of now, of here, of this commit."""
    now = datetime.datetime.now(datetime.UTC)
    load = round(os.getloadavg()[0], 1)
    stamp = {"commit": commit(), "date": f"{now:%Y-%m-%d %H:%M}", "machine": machine(), "versions": versions()}
    return Record(**fields, **stamp, load=load)


def append(record: Record, path: Path) -> None:
    """One more line."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")


def load(path: Path) -> list[Record]:
    """All so far; none where there is no file."""
    if not path.exists():
        return []
    return [Record(**json.loads(line)) for line in path.read_text().splitlines()]


def latest(records: Iterable[Record]) -> dict[tuple[str, str], Record]:
    """The record that counts, by row and transport: the last full run, otherwise the last run. A record without a run
    replaces no record with one."""
    best: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda item: item.date):
        key = (record.row, record.transport)
        if key not in best or weight(record) >= weight(best[key]):
            best[key] = record
    return best


def weight(record: Record) -> int:
    """How much a record says."""
    return 0 if record.verdict == NOT_RUN else 2 if record.form == "full" else 1


def commit() -> str:
    """Short hash, with a + if the tree has changes. The files that this program writes do not count as changes."""
    said = git("describe", "--always", "--abbrev=9", "--exclude=*")
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in WRITTEN))
    return said + ("+" if changed else "") if said else "no commit"


def git(*arguments: str) -> str:
    """The output of a git command; empty if there is no repository."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def machine() -> str:
    """Processor, cores and memory; no name."""
    facts = dict(line.split(":", 1) for line in _lines("/proc/cpuinfo") if ":" in line)
    cpu = next((value.strip() for name, value in facts.items() if name.startswith("model name")), platform.machine())
    cores = sum(line.startswith("processor") for line in _lines("/proc/cpuinfo"))
    kilobytes = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return f"{cpu}, {cores} cores, {round(kilobytes / 2**20)} GiB, {platform.system()} {platform.release()}"


def versions() -> str:
    """Versions of Python and of the packages that the server depends on."""
    return ", ".join((f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in PACKAGES)))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
