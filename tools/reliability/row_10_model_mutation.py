"""Mutated bundles: damaged versions of a model, which a running server must reject without a crash."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np

from kanserve.config.settings import Settings
from kanserve.errors import ConfigError, LoadError
from kanserve.models.admission import Sandbox
from kanserve.models.loader import Loader
from kanserve.observability.metrics import Metrics
from kanserve.repository import layout
from tests.support import toy_model
from tests.support.hostile_bundles import mutate
from tests.support.server_process import Server, serving
from tools.reliability.base import Outcome, Row, Scale, suite

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
ROWS = np.linspace(-3, 3, 24, dtype=np.float32).reshape(8, 3)
STEP = 500  # mutants between two looks at the server


class Judge:
    """A loader that reads, load-checks and loads mutants as the server does, and counts the outcomes by reason."""

    def __init__(self, root: Path) -> None:
        self.good = toy_model.write(root / "good")
        self.root = root
        settings = Settings(repository=root, load_timeout=10)
        self.trial = Sandbox(settings)
        self.loader = Loader(settings, 1, Metrics())
        self.came: collections.Counter[str] = collections.Counter()
        self.bugs: list[str] = []

    async def some(self, first: int, last: int) -> None:
        await asyncio.gather(*(self._half(first + at, last) for at in range(2)))

    async def _half(self, first: int, last: int) -> None:
        for seed in range(first, last, 2):
            self.came[await self._one(seed, self.root / f"mutant-{seed % 2}")] += 1

    async def _one(self, seed: int, repository: Path) -> str:
        mutate(self.good, repository / "toy" / "1", seed)
        try:
            (candidate,) = layout.scan(repository, plain_onnx=False)
            bundle = layout.load(candidate, 2**20)
            await self.trial.validate(bundle)
            # From here on it is this process that has it.
            model = self.loader.load(bundle)
        except LoadError as error:
            return error.reason
        except (ConfigError, RuntimeError) as error:  # neither is what a version may come to
            self.bugs.append(f"mutant {seed}: {error}"[-600:])
            return "a bug"
        model.close()
        return "passed"


def serves_on(server: Server, good: Path, repository: Path, answers: bytes, seed: int) -> int:
    """A mutant as the served version, and as another version: the number of changed outputs."""
    wrong = 0
    for version in (1, 2):
        staging = repository / f".mutant-{version}"
        mutate(good, staging, seed * 7 + version)
        target = repository / "toy" / str(version)
        if target.exists():
            target.rename(repository / f".old-{seed}-{version}")
        staging.rename(target)
    server.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        wrong += server.infer(ROWS, model_version="3").tobytes() != answers
    return wrong


def run(scale: Scale, seed: int, transport: str) -> Outcome:
    """This process checks most mutants and loads those that pass. Some are in the repository of a real server."""
    total, offered = scale.of(300, 100_000), scale.of(4, 200)
    wrong = 0
    with tempfile.TemporaryDirectory(dir=FAST) as name:
        root, repository = Path(name), Path(name, "models")
        toy_model.write(repository, version=3)
        with serving(repository, load_check=True, repository_poll_seconds=0) as server:
            answers = server.infer(ROWS).tobytes()
            pid = server.process.pid

            async def main() -> Judge:
                nonlocal wrong
                judge = Judge(root)
                for at in range(0, total, STEP):
                    scale.tell(at, total)
                    first = seed * 10**6 + at
                    await judge.some(first, first + min(STEP, total - at))
                    wrong += server.infer(ROWS, model_version="3").tobytes() != answers
                judge.trial.close()
                return judge

            judge = asyncio.run(main())
            for at in range(offered):
                wrong += serves_on(server, judge.good, repository, answers, seed * 10**4 + at)
            alive = server.process.poll() is None and server.process.pid == pid
            bugs = judge.bugs + [line["event"] for line in server.lines() if line["event"] == "repository_sync_crashed"]
    figures = {"mutants": total + 2 * offered, "server ended": int(not alive), "other answers": wrong}
    figures |= {"bugs": len(bugs), **{f"came to {reason}": count for reason, count in sorted(judge.came.items())}}
    passed = alive and wrong == 0 and not bugs and sum(judge.came.values()) == total
    return Outcome(figures, passed, total, "; ".join(bugs[:3]))


ROW = Row(
    number="10",
    title="Mutated model versions",
    method=(
        "100,000 mutated versions get a load check, and load if they pass. Some are versions on a server that "
        "serves another version."
    ),
    goal="The server does not exit, and outputs of the served version stay bit-identical.",
    result="{mutants} mutants: {server ended} exits, {other answers} changed outputs, {bugs} unexpected errors.",
    run=run,
    minutes=120,
)

test_row = suite(ROW)
