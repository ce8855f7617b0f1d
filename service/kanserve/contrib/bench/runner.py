"""Benchmark runner: every system with every number of threads and rows, interleaved, with its error."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kanexport.shared.cli import suggest
from kanexport.shared.cli.tables import Report
from kanexport.shared.manifest import HYBRID, LayerInfo, Manifest
from kanexport.shared.sections import CLAMP
from kanserve.config.settings import Settings
from kanserve.contrib.bench import entrants
from kanserve.contrib.bench.entrants import TORCH, Absent, Entrant, Execute, Feeds, repeated
from kanserve.repository.layout import Bundle
from kanserve.runtime.base import Session, SessionOptions, create_session
from kanserve.sandbox import verify
from kanserve.types import DTYPES, Array

CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Measured time of one system.

    threads  number of threads
    rows     rows of an execution
    seconds  seconds of an execution
    ratio    time relative to the first system
    error    output error, as in Entrant
    """

    name: str
    how: str
    threads: int
    rows: int
    seconds: Spread
    ratio: float
    edges: int
    error: float | None
    against: str
    tolerance: float

    @property
    def right(self) -> bool | None:
        """True if the error is within the tolerance; None without a reference."""
        return None if self.error is None else self.error <= self.tolerance

    @property
    def rows_per_second(self) -> float:
        """Rows per second, at the median time."""
        return self.rows / self.seconds.median

    @property
    def edges_per_second(self) -> float | None:
        """Edge evaluations per second, at the median time; None for a system without edges."""
        return self.edges * self.rows_per_second if self.edges else None


@dataclass(frozen=True, slots=True)
class Field:
    """Systems compared, the model itself first, and systems excluded."""

    entrants: tuple[Entrant, ...]
    absent: tuple[Absent, ...]


def field(bundle: Bundle, manifest: Manifest, settings: Settings, feeds: Feeds) -> Field:
    """Systems compared for one version with its `manifest`. Raises LoadError for graphs that do not load."""
    model = entrants.kanserve_entrant(bundle, manifest, settings)

    def create(file: str) -> Session:
        return create_session(bundle.files, manifest, file, SessionOptions(CPU, 1))

    others = [
        entrants.mlp(manifest, settings.device, feeds),
        eager(manifest, create, model, feeds)
        if settings.device == CPU
        else Absent(TORCH, f"the benchmark runs it only on the CPU, but the model is on {settings.device}"),
    ]
    return Field(
        (model, *(entrant for entrant in others if isinstance(entrant, Entrant))),
        tuple(entrant for entrant in others if isinstance(entrant, Absent)),
    )


def run(
    taking_part: Sequence[Entrant],
    feeds: Feeds,
    *,
    threads: Sequence[int],
    batches: Sequence[int],
    rounds: int,
    report: Report,
) -> Iterator[Time]:
    """Times of all systems. The first system is the reference of the ratios. `feeds`: rows, which are repeated."""
    total, done = len(threads) * len(batches) * rounds, 0

    def after(place: str) -> None:
        nonlocal done
        done += 1
        report(done, total, place)

    for count in threads:
        ready = [(entrant, *entrant.threads(count)) for entrant in taking_part]
        for rows in batches:
            own = repeated(feeds, rows)
            errors = {entrant.name: entrant.check(execute, rows) for entrant, execute, _ in ready}
            calls = {entrant.name: functools.partial(execute, own) for entrant, execute, _ in ready}
            place = f"{count} threads, {rows} rows"
            seconds = measure(calls, rounds, after=functools.partial(after, place))
            ours = seconds[ready[0][0].name]
            for entrant, _, how in ready:
                yield Time(
                    name=entrant.name,
                    how=how,
                    threads=count,
                    rows=rows,
                    seconds=spread(seconds[entrant.name]),
                    ratio=ratio(seconds[entrant.name], ours),
                    edges=entrant.edges,
                    error=errors[entrant.name],
                    against=entrant.against,
                    tolerance=entrant.tolerance,
                )


LEAST = 0.02  # seconds of one measurement, which repeats the call until then
PAUSE = 0.01  # seconds before a measurement, until the threads of torch no longer spin (libgomp)
QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Spread:
    """Quartiles and median of the seconds of one call over the rounds."""

    lower: float
    median: float
    upper: float


def measure(
    calls: Mapping[str, Callable[[], object]], rounds: int, *, least: float = LEAST, after: Callable[[], None]
) -> dict[str, NDArray[np.float64]]:
    """Seconds of one call, [rounds] of each. `after` is called when a round is done."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(PAUSE)
            call()  # uncounted, to warm the caches
            count, begun = 0, time.perf_counter()
            while not count or time.perf_counter() - begun < least:
                call()
                count += 1
            seconds[name].append((time.perf_counter() - begun) / count)
        after()
    return {name: np.array(values) for name, values in seconds.items()}


def spread(seconds: NDArray[np.float64]) -> Spread:
    """Quartiles and median of seconds [rounds]."""
    return Spread(*map(float, np.quantile(seconds, QUARTERS)))


def ratio(seconds: NDArray[np.float64], ours: NDArray[np.float64]) -> float:
    """Time relative to the model: the median over the rounds, each compared with its own neighbours."""
    return float(np.median(seconds / ours))


def facts(runtime: str, load: float) -> dict[str, Any]:
    """Facts of the machine and the software.

    runtime  name and version of the runtime
    load     threads of the machine that ran or waited for a core, on average
    """
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtime": runtime,
        "load": load,
    }


def processor() -> str:
    """Name of the processor on Linux, otherwise the architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.machine()


EQUAL = 1e-5  # largest difference from the model, relative to its largest output
PIECE = 8  # rows of edge values at once


def eager(manifest: Manifest, create: Callable[[str], Session], check: Entrant, feeds: Feeds) -> Entrant | Absent:
    """PyTorch's eager execution. `create` makes a session of one of the version's graphs. `check`: the model itself,
    whose outputs for `feeds` must be equal."""
    if why := _unfit(manifest):
        return Absent(TORCH, why)
    try:
        maker = suggest.load("bench", "kanserve.contrib.bench.torch_eager", "torch")
    except suggest.MissingPackage:
        return Absent(TORCH, "torch is not installed")
    edges = [functools.partial(_edges, create(layer.edges_file), layer) for layer in manifest.layers]
    try:
        evaluate = maker.network(manifest.layers, edges, manifest.input.datatype == "FP64")
    except maker.Unfit as error:
        return Absent(TORCH, f"{error}: the module of the library is not available, and kanserve has no form for it")

    def execute(inputs: Feeds) -> list[Array]:
        (rows,) = inputs.values()
        return [evaluate(rows)]

    exact, _ = check.threads(1)
    (model,), (rebuilt,) = exact(feeds), execute(feeds)
    difference = max(entrants.error(rebuilt, model, model), check.check(execute, len(rebuilt)) or 0.0)
    if not difference <= EQUAL:
        return Absent(
            TORCH, f"the module rebuilt from the edges differs from the model by {difference:.1e}, more than {EQUAL:g}"
        )

    def threads(count: int) -> tuple[Execute, str]:
        maker.torch.set_num_threads(count)
        return execute, entrants.one_run(count)

    return Entrant(
        TORCH,
        f"torch {maker.torch.__version__}, the same layers in efficient-kan's form, rebuilt from the edges; equal to "
        f"the model's outputs to {difference:.1e}",
        check.against,
        check.tolerance,
        threads,
        check.check,
        check.edges,
    )


def _unfit(manifest: Manifest) -> str:
    """The reason why the model has no such form, or ""."""
    if manifest.source.family == HYBRID:
        return "the model is a PyTorch module export, and the module is not available"
    nodes = [layer.sources for layer in manifest.layers] + [manifest.widths[-1]]
    after = [manifest.widths[0], *(layer.destinations for layer in manifest.layers)]
    if nodes != after or manifest.out_of_range == CLAMP or len(manifest.inputs) + len(manifest.outputs) != 2:
        return "the model has more operations than its layers"
    if manifest.input.datatype not in verify.FLOATS:
        return f"the model has the datatype {manifest.input.datatype}"
    return ""


def _edges(session: Session, layer: LayerInfo, x: Any) -> Any:
    """[M, S] -> [M, S, D], float64."""
    (tensor,) = session.inputs
    nodes = x.astype(DTYPES[tensor.datatype])
    parts = [
        session.run([layer.edges_tensor], {tensor.name: nodes[at : at + PIECE]})[0] for at in range(0, len(x), PIECE)
    ]
    return np.concatenate(parts).astype(np.float64)
