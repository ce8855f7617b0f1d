"""Fault injection: the n-th system call of an export or a reload fails, for every n."""

from __future__ import annotations

import collections
import itertools
import os
import tempfile
from pathlib import Path

import pytest

from kanserve.errors import ConfigError, LoadError
from kanserve.repository import layout
from kanserve.repository.snapshot import Scanner
from tests.support.failures import CASES, FAST, Failing, packed
from tools.reliability.base import Outcome, Row, Scale, suite


def exporter(folder: Path, scale: Scale) -> collections.Counter[str]:
    """Forced exports over a model that is there: what failed, by call. `Case.run` asserts what must hold."""
    failed: collections.Counter[str] = collections.Counter()
    cases = CASES if scale.full else CASES[:1]
    for at, case in enumerate(cases):
        scale.tell(at, len(cases))
        failed.update(itertools.takewhile(bool, (case.run(folder / "models", n) for n in itertools.count(1))))
    return failed


def reloader(folder: Path) -> collections.Counter[str]:
    """Scans a repository and reads its versions, as a server does before it accepts one: the failures, by call. Each
    failure has a typed error; without a fault both versions are read."""
    repository = folder / "read"
    for version in (1, 2):
        packed(repository, version)
    failed: collections.Counter[str] = collections.Counter()
    for n in itertools.count(1):
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, n, OSError)
            whole = _read(repository)
        if not failing.failed:
            assert whole == 2
            break
        failed[failing.failed] += 1
    return failed


def _read(repository: Path) -> int:
    """How many versions were read whole."""
    looker, whole = Scanner(repository), 0
    try:
        look = looker.scan()
    except ConfigError:
        return 0
    for candidate in look.candidates.values():
        try:
            whole += layout.load(candidate, 2**20).manifest is not None
            looker.fingerprint(candidate)
        except LoadError:
            continue
    return whole


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """For all n, until a run has no n-th call any more."""
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        before = len(os.listdir("/proc/self/fd"))
        exported, read = exporter(Path(name), scale), reloader(Path(name))
        left = len(os.listdir("/proc/self/fd")) - before
    count = exported.total() + read.total()
    figures = {
        "faults in the exporter": exported.total(),
        "faults in the reloader": read.total(),
        "old versions lost, untyped errors, files left over": 0,  # each is an assertion that ends the run
        "descriptors left open": left,
        "calls": ", ".join(sorted(exported.keys() | read.keys())),
    }
    return Outcome(figures, left == 0 and exported.total() > 40 and read.total() > 20, count)


ROW = Row(
    number="33",
    title="Failing file operations",
    method=(
        "Each file operation of a forced export over an existing model, and of the server's reads, fails once: "
        "open, read, sync, rename, exchange, remove, stat. Both disk and memory errors occur."
    ),
    goal="The old version stays intact, the error is typed, and no file is left over.",
    result=(
        "{faults in the exporter} faults in the exporter, {faults in the reloader} in the server: {old versions "
        "lost, untyped errors, files left over} violations, {descriptors left open} open descriptors."
    ),
    run=run,
)

test_row = suite(ROW)
