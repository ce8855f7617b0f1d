"""Summary of a benchmark: table, JSON document and plot."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kanexport.shared.cli.tables import Table
from kanexport.shared.manifest import Manifest
from kanserve.contrib.bench import entrants, runner
from kanserve.contrib.bench.runner import Field, Time
from kanserve.plotting import figures
from kanserve.plotting.figures import Rates
from kanserve.plotting.scenes import Scene

BUSY = 0.5  # threads for each core, before anything was timed
WRONG, UNKNOWN = "WRONG", "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Benchmark result with its circumstances.

    rows     the input rows in words
    runtime  name and version of the runtime
    load     threads of the machine that ran or waited for a core at the start, on average
    """

    manifest: Manifest
    field: Field
    times: Sequence[Time]
    rows: str
    rounds: int
    runtime: str
    load: float

    @property
    def title(self) -> str:
        """Title, such as "digits version 1: efficient-kan, 64 → 16 → 10"."""
        model = self.manifest
        return f"{model.name} version {model.version}: {model.source.family}, {' → '.join(map(str, model.widths))}"

    @property
    def machine(self) -> dict[str, Any]:
        """Machine and date of the measurement."""
        return runner.facts(self.runtime, self.load)

    @property
    def busy(self) -> str:
        """Remark about other load on the cores; empty without such load."""
        if self.load <= BUSY * len(os.sched_getaffinity(0)):
            return ""
        return (
            f"other processes used this machine (load {self.load:.1f}): use only the relative times, and only those of "
            "1 thread"
        )

    @property
    def right(self) -> bool | None:
        """True if all outputs were right; None if some have no reference and no other was wrong."""
        known = {time.right for time in self.times}
        return False if False in known else (None if None in known else True)


def document(measurement: Measurement) -> dict[str, Any]:
    """JSON document of the measurement."""
    model = measurement.manifest
    return {
        "model": model.name,
        "version": str(model.version),
        "family": model.source.family,
        "verified": model.claim,
        "approximation": model.approximation.text,
        "widths": list(model.widths),
        "parameters": entrants.parameters(model.layers),
        "edges": entrants.edges(model.layers),
        "machine": measurement.machine,
        "input": measurement.rows,
        "rounds": measurement.rounds,
        "right": measurement.right,
        "entrants": [
            {"name": entrant.name, "about": entrant.about, "against": entrant.against, "tolerance": entrant.tolerance}
            for entrant in measurement.field.entrants
        ],
        "left_out": [asdict(entrant) for entrant in measurement.field.absent],
        "results": [_result(time) for time in measurement.times],
    }


def _result(time: Time) -> dict[str, Any]:
    facts = asdict(time)
    properties = ("rows_per_second", "edges_per_second", "error", "right")
    return {
        **{name: facts[name] for name in ("name", "how", "threads", "rows", "seconds", "ratio")},
        **{name: getattr(time, name) for name in properties},
    }


def table(measurement: Measurement) -> Table:
    """Table with one line per time, grouped by numbers of threads and rows."""
    machine = measurement.machine
    where = f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
    systems = []  # their executions, and the references of their errors
    for entrant in measurement.field.entrants:
        ways = dict.fromkeys(time.how for time in measurement.times if time.name == entrant.name)
        how = "".join(f"; {way}" for way in ways)
        against = f"reference: {entrant.against}; tolerance {entrant.tolerance:g}"
        systems.append(f"{entrant.name}: {entrant.about}{how}; {against}")
    rows = Table(
        measurement.title,
        ("threads", "rows", "system", "µs, median (quartiles)", "rows/s", "edges/s", "relative time", "error"),
        numbers=("threads", "rows", "µs, median (quartiles)", "rows/s", "edges/s", "relative time"),
        caption=(
            measurement.manifest.claim,
            *filter(None, (measurement.manifest.approximation.text,)),
            *systems,
            *(f"{entrant.name} is excluded: {entrant.why}" for entrant in measurement.field.absent),
            "relative time: kanserve = 1, lower is faster; error: the largest, relative to the largest output",
            f"{measurement.rows}; {measurement.rounds} interleaved rounds",
            f"{where}, {measurement.runtime}",
            *filter(None, (measurement.busy,)),
        ),
    )
    for time in measurement.times:
        spread = time.seconds
        rows.add(
            str(time.threads),
            str(time.rows),
            time.name,
            f"{_us(spread.median)} ({_us(spread.lower)} to {_us(spread.upper)})",
            large(time.rows_per_second),
            large(time.edges_per_second),
            f"{time.ratio:.2f}x",
            UNKNOWN if time.error is None else f"{time.error:.1e}{'' if time.right else f' {WRONG}'}",
            style="red" if time.right is False else "",
        )
    return rows


def picture(measurement: Measurement) -> Scene:
    """Plot of rows per second over the rows of an execution."""
    every = []
    for threads in dict.fromkeys(time.threads for time in measurement.times):
        for name in dict.fromkeys(time.name for time in measurement.times):
            own = [time for time in measurement.times if (time.name, time.threads) == (name, threads)]
            points = tuple((t.rows, t.rows / t.seconds.upper, t.rows_per_second, t.rows / t.seconds.lower) for t in own)
            every.append(Rates(f"{name}, {threads} thread{'s' * (threads > 1)} ({_worst(own)})", points))
    machine = measurement.machine
    caption = "; ".join(
        (
            f"{machine['processor']}, {machine['cores']} cores, {measurement.runtime}, {machine['date']}",
            "bars: quartiles",
            "in parentheses: the largest error",
        )
    )
    return figures.throughput_scene(measurement.title, caption, every)


def _worst(times: Sequence[Time]) -> str:
    """The largest error of several."""
    if any(time.right is False for time in times):
        return WRONG
    known = [time.error for time in times if time.error is not None]
    return f"{max(known):.0e}" if known else UNKNOWN


def _us(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def large(value: float | None) -> str:
    """Number with three digits, such as 2.31M."""
    if value is None:
        return ""
    for unit, times in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= times:
            return f"{value / times:.3g}{unit}"
    return f"{value:.3g}"
