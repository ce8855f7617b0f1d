"""Cases (one network each) and their cells (one batch size each), measured with `kanserve.contrib.bench`."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanexport.shared.cli.tables import Report
from kanserve.config import sources
from kanserve.config.settings import Settings
from kanserve.contrib.bench import runner
from kanserve.contrib.bench.entrants import OURS, Absent, Entrant, Execute, Feeds, repeated
from kanserve.contrib.bench.runner import Time

LONG = 0.5  # seconds of a round from which on there are few of them
FEW, MANY = 5, 9
AGAIN = 5  # runs that must give the same bits


@dataclass(frozen=True, slots=True)
class Work:
    """Resources to build cases with. `folder` is temporary; `keep` stays, for exports of other systems that take long;
    `libraries`: a folder with clones, as owner/name, or None; `quick`: cases may omit systems with a long setup."""

    folder: Path
    keep: Path
    quick: bool
    libraries: Path | None
    settings: Settings

    @staticmethod
    def begin(folder: Path, keep: Path, *, quick: bool = False, libraries: Path | None = None) -> Work:
        """As a server with the settings of the environment would run."""
        settings = sources.load({}, without={"repository": Path()}).settings
        return Work(folder, keep, quick, libraries, settings)


@dataclass(frozen=True, slots=True)
class Made:
    """A case ready to measure; the first system is the one that the others are compared with. `facts`: further figures,
    such as the number of nodes in the graphs."""

    entrants: tuple[Entrant, ...]
    feeds: Feeds
    absent: tuple[Absent, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(every: Sequence[Entrant | Absent], feeds: Feeds, **facts: Any) -> Made:
        """A case from the systems that can run and those that are absent."""
        came = tuple(entry for entry in every if isinstance(entry, Entrant))
        return Made(came, feeds, tuple(entry for entry in every if isinstance(entry, Absent)), facts)


@dataclass(frozen=True, slots=True)
class Case:
    """One network of a group, with the batch size of each cell and a number of threads. The program calls `make` before
    it measures the first cell."""

    group: str
    name: str
    batches: tuple[int, ...]
    make: Callable[[Work], Made]
    threads: int = 1

    def key(self, rows: int) -> dict[str, Any]:
        """The key that identifies a cell in the records."""
        return {"group": self.group, "case": self.name, "threads": self.threads, "rows": rows}


def measure(case: Case, batches: Sequence[int], work: Work, report: Report) -> Iterator[dict[str, Any]]:
    """A record for each cell."""
    prepared = case.make(work)
    unsteady: set[str] = set()
    ready = tuple(_prepared(entrant, unsteady) for entrant in prepared.entrants)
    for rows in batches:
        unsteady.clear()
        load = os.getloadavg()[0]
        rounds = _rounds(ready, repeated(prepared.feeds, rows), case.threads, quick=work.quick)
        tell = _named(report, case, rows)
        one_cell = {"threads": (case.threads,), "batches": (rows,), "rounds": rounds}
        times = runner.run(ready, prepared.feeds, **one_cell, report=tell) if ready else ()
        yield case.key(rows) | {
            "quick": work.quick,
            "rounds": rounds,
            "load": round(load, 2),
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "entrants": [_told(time, unsteady) for time in times],
            "absent": {absent.name: absent.why for absent in prepared.absent},
            "facts": dict(prepared.facts),
        }


def bad(record: Mapping[str, Any]) -> list[str]:
    """Systems with wrong predictions in a cell; kanserve's also if repeated results are not bit-identical."""
    return [
        entrant["name"] for entrant in record["entrants"] if entrant["right"] is False or entrant["steady"] is False
    ]


def _prepared(entrant: Entrant, unsteady: set[str]) -> Entrant:
    """The system, prepared once per number of threads. If kanserve's repeated results are not bit-identical, the record
    counts them as wrong."""

    def check(answer: Execute, rows: int) -> float | None:
        if entrant.name.startswith(OURS) and not _steady(entrant, answer, rows):
            unsteady.add(entrant.name)
        return entrant.check(answer, rows)

    return dataclasses.replace(entrant, threads=functools.cache(entrant.threads), check=check)


def _steady(entrant: Entrant, answer: Execute, rows: int) -> bool:
    """`check` calls for the rows of the entrant, whichever those are."""
    seen: list[set[bytes]] = []

    def recorded(feeds: Feeds) -> list[Any]:
        answers = [answer(feeds) for _ in range(AGAIN)]
        seen.append({b"".join(part.tobytes() for part in parts) for parts in answers})
        return answers[0]

    entrant.check(recorded, rows)
    return all(len(bits) == 1 for bits in seen)


def _rounds(ready: Sequence[Entrant], feeds: Feeds, threads: int, *, quick: bool) -> int:
    """By how long a round takes. This also is everybody's first run, in which a compiler may work."""
    if quick:
        return 1
    answers = [entrant.threads(threads)[0] for entrant in ready]
    for answer in answers:
        answer(feeds)
    begun = time.perf_counter()
    for answer in answers:
        answer(feeds)
    return FEW if time.perf_counter() - begun > LONG else MANY


def _named(report: Report, case: Case, rows: int) -> Report:
    def tell(done: int, total: int, place: str = "") -> None:
        report(done, total, f"{case.group} {case.name}, {rows} rows")

    return tell


def _told(time: Time, unsteady: set[str]) -> dict[str, Any]:
    facts = dataclasses.asdict(time.seconds)
    return {
        "name": time.name,
        "how": time.how,
        **{name: float(f"{value:.4g}") for name, value in facts.items()},
        "ratio": float(f"{time.ratio:.4g}"),
        "error": None if time.error is None else float(f"{time.error:.2g}"),
        "right": time.right,
        "steady": time.name not in unsteady,
    }
