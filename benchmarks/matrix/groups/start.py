"""Time from the model file to the first prediction, in a process that has already imported the runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.matrix import contestants, module
from benchmarks.matrix.cells import Case, Made, Work
from benchmarks.matrix.contestants import EXPORT, Run, Truth
from benchmarks.matrix.groups import splines
from benchmarks.matrix.module import Shape
from kanexport.shared.manifest import MODEL_FILE
from kanserve.cli import inventory
from kanserve.contrib.bench.entrants import OURS, Entrant
from kanserve.models.loader import Loader
from kanserve.observability.metrics import Metrics
from kanserve.sandbox import verify
from kanserve.types import Array

START, LOADED = "start", f"{OURS}, as a server loads it, proved"
SHAPE = Shape((784, 64, 10))


def start(quick: bool) -> Iterator[Case]:
    """One network, one row."""
    yield Case(START, str(SHAPE), (1,), make)


def make(work: Work) -> Made:
    """Each call makes a session and runs one row."""
    network, truth, path = splines.ready(SHAPE, work, contestants.SEEN)
    version = contestants.exported(work, path)
    data = module.exported(network, SHAPE.widths[0], work.keep)
    every = [
        truth.entrant(OURS, "the exported graph", _fresh(lambda: contestants.runner(version / MODEL_FILE, 1))),
        _server(work, version, truth),
        truth.entrant(EXPORT, "the same of what torch exports", _fresh(lambda: contestants.runner(data, 1))),
    ]
    return Made.of(every, truth.feeds)


def _fresh(make: Callable[[], Run]) -> Callable[[int], tuple[Run, str]]:
    return lambda _: (lambda x: make()(x), "a new session each time")


def _server(work: Work, version: Path, truth: Truth) -> Entrant:
    """With the check of reference rows, and with the measurements at load."""
    bundle, manifest = inventory.version(version.parents[1], version.parent.name, version.name)
    loader = Loader(work.settings, 1, Metrics())

    def answer(x: Array) -> Array:
        info, session, _ = loader.unproved(bundle)
        verify.check_reference(manifest, session)
        return session.run([info.outputs[0].name], {info.inputs[0].name: x})[0]

    about = "its reference rows run, its ways measured, its session made, then one row"
    return truth.entrant(LOADED, about, lambda _: (answer, "one thread"))
