"""Rounds of the server benchmark: all servers of a case run at the same time, and each round measures one at a time."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

import scale
from rich.progress import Progress

from servers import contestants, load, loop
from servers.contestants import Contestant, Running
from servers.measured import Case, Measured

MODEL = "model"
LOOP = ("portable graph", 2)  # graph and number of sessions


def measure(case: Case, rounds: int, seconds: float, folder: Path, words: Sequence[str] = ("",)) -> Measured:
    """All samples of one case. `folder`: empty, for the models, the logs and a certificate; `words`: parts of the names
    of the systems to measure. Raises RuntimeError if a server or a client fails."""
    repository = folder / "models"
    scale.export(scale.write(scale.Shape(case.widths, 5), folder), repository)
    certificate(folder)
    systems = contestants.contestants(repository, MODEL, folder)
    if case.systems:
        systems = [system for system in systems if system.name in case.systems]
    systems = [system for system in systems if any(word in system.name for word in words)]
    data = load.inputs(folder, "x", case.rows, case.widths[0])
    measured = Measured()
    with contextlib.ExitStack() as stack, Progress() as progress:
        running = started(systems, folder, stack)
        task = progress.add_task(case.title, total=rounds * len(case.levels) * len(running))
        for number in range(rounds):
            if case.rows > 1:
                rate = loop.measure(repository / MODEL / "1" / "model.onnx", case.rows, LOOP[1], 2 * seconds)
                measured.loops.setdefault(LOOP[0], []).append(rate)
            for level in case.levels:
                for system, where in rotated(running, number):
                    progress.update(task, description=f"{system.name}, c = {level}")
                    sample = load.perf_analyzer(
                        *(system, where, MODEL, data), concurrency=level, rows=case.rows, window=seconds
                    )
                    measured.add(system.name, level, sample)
                    progress.advance(task)
        measured.resident = {system.name: where.resident() for system, where in running}
    return measured


def beside_rivals(case: Case, measured: Measured, rounds: int, seconds: float, folder: Path) -> None:
    """Measure Python servers of the same protocol with h2load: they lack methods that perf_analyzer calls. `folder`:
    that of `measure`. The function returns at once if none is named."""
    others = contestants.rivals(folder / "models", MODEL)
    if not others:
        return
    systems = contestants.contestants(folder / "models", MODEL, folder)
    served = [system for system in systems if system.name == "kanserve asgi"]
    data = load.body(folder, MODEL, "x", case.widths[0])
    with contextlib.ExitStack() as stack, Progress() as progress:
        running = started([*served, *others], folder, stack)
        for number in progress.track(range(rounds), description="h2load"):
            for system, where in rotated(running, number):
                sample = load.h2load(where, data, 4, 8, seconds=seconds)
                measured.streams.setdefault(system.name, []).append(sample.rate)


def started(
    systems: Sequence[Contestant], folder: Path, stack: contextlib.ExitStack
) -> list[tuple[Contestant, Running]]:
    """Start all servers; `stack` stops them. Raises RuntimeError if one does not start."""
    return [
        (system, stack.enter_context(contestants.started(system, folder / f"{number}.log")))
        for number, system in enumerate(systems)
    ]


def rotated(running: Sequence[tuple[Contestant, Running]], number: int) -> list[tuple[Contestant, Running]]:
    """Another system begins each round, except in the first ones of fewer rounds than systems."""
    at = number % max(1, len(running))
    return [*running[at:], *running[:at]]


def certificate(folder: Path) -> None:
    """Write cert.pem and key.pem for 127.0.0.1, which are valid for a day."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
