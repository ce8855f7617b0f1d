"""Every entrant with every number of threads and rows: in turns, with its error."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kanexport.manifest import Manifest
from kanexport.shared.progress import Report
from kanserve.backends import Backend, Session
from kanserve.bench import entrants, rebuilt, turns
from kanserve.bench.entrants import TORCH, Absent, Answer, Entrant
from kanserve.bench.rows import Feeds, repeated
from kanserve.bench.turns import Spread
from kanserve.config import Settings
from kanserve.models.loading import beside_of
from kanserve.repository.layout import Bundle

CPU = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Time:
    """Of one entrant on `threads` threads with `rows` rows a run: `seconds` of a run; `ratio`: how many times as long
    as the first entrant takes; `error` as of Entrant."""

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
        """None where there was nothing to hold it against."""
        return None if self.error is None else self.error <= self.tolerance

    @property
    def rows_per_second(self) -> float:
        """At the median."""
        return self.rows / self.seconds.median

    @property
    def edges_per_second(self) -> float | None:
        """At the median; None for what has no edges."""
        return self.edges * self.rows_per_second if self.edges else None


@dataclass(frozen=True, slots=True)
class Field:
    """Who takes part, the model itself first, and who does not."""

    entrants: tuple[Entrant, ...]
    absent: tuple[Absent, ...]


def field(bundle: Bundle, manifest: Manifest, backend: Backend, settings: Settings, feeds: Feeds) -> Field:
    """For one version, whose own `manifest` is given. Raises LoadError for graphs that do not load."""
    model = entrants.ours(bundle, manifest, backend, settings)

    def create(file: str) -> Session:
        return backend.create(
            bundle.files[file], device=CPU, threads=1, beside=beside_of(bundle), optimization=manifest.optimization
        )

    others = [
        entrants.mlp(manifest, backend, settings.device, feeds),
        rebuilt.eager(manifest, create, model, feeds)
        if settings.device == CPU
        else Absent(TORCH, f"it is timed on the CPU alone, and the model is on {settings.device}"),
    ]
    return Field(
        (model, *(one for one in others if isinstance(one, Entrant))),
        tuple(one for one in others if isinstance(one, Absent)),
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
    """The first entrant is the one that the others are compared with; `feeds`: rows, taken again and again."""
    total, done = len(threads) * len(batches) * rounds, 0

    def after(place: str) -> None:
        nonlocal done
        done += 1
        report(done, total, place)

    for count in threads:
        ready = [(one, *one.threads(count)) for one in taking_part]
        for rows in batches:
            place = f"{count} threads, {rows} rows"
            yield from _one(ready, repeated(feeds, rows), count, rows, rounds, functools.partial(after, place))


def _one(
    ready: Sequence[tuple[Entrant, Answer, str]],
    feeds: Feeds,
    threads: int,
    rows: int,
    rounds: int,
    after: functools.partial[None],
) -> Iterator[Time]:
    errors = {entrant.name: entrant.check(answer, rows) for entrant, answer, _ in ready}
    calls = {entrant.name: functools.partial(answer, feeds) for entrant, answer, _ in ready}
    seconds = turns.measure(calls, rounds, after=after)
    ours = seconds[ready[0][0].name]
    for entrant, _, how in ready:
        yield Time(
            name=entrant.name,
            how=how,
            threads=threads,
            rows=rows,
            seconds=turns.spread(seconds[entrant.name]),
            ratio=turns.ratio(seconds[entrant.name], ours),
            edges=entrant.edges,
            error=errors[entrant.name],
            against=entrant.against,
            tolerance=entrant.tolerance,
        )
