"""Measurements of the server benchmark: samples of each system, quartiles, and their form in the record."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Key = tuple[str, int]  # name of a system, concurrency


@dataclass(frozen=True)
class Case:
    """One network and request size, measured at several concurrencies.

    widths   sizes of the layers, inputs first
    rows     rows of one request
    levels   numbers of requests in flight
    systems  names of the systems that the case measures; empty: all that can run
    """

    widths: tuple[int, ...]
    rows: int
    levels: tuple[int, ...]
    systems: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name of the case in file names and in marks of a page."""
        return f"{'-'.join(map(str, self.widths))} {self.rows}"

    @property
    def title(self) -> str:
        """Name of the case in a heading."""
        return f"{list(self.widths)}, {self.rows} row{'s' * (self.rows > 1)} per request"


@dataclass(frozen=True)
class Sample:
    """Inferences (rows) per second, latencies in microseconds, and the server's CPU microseconds per request."""

    rate: float
    p50: float
    p99: float
    cpu: float


@dataclass
class Measured:
    """All samples of one case. In each list, item i is of round i.

    resident  MiB of each server at the end
    streams   requests per second of `h2load`, by system
    loops     rows per second of sessions without a server, by their graph
    """

    samples: dict[Key, list[Sample]] = field(default_factory=dict)
    resident: dict[str, float] = field(default_factory=dict)
    streams: dict[str, list[float]] = field(default_factory=dict)
    loops: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, concurrency: int, sample: Sample) -> None:
        """Add the sample of the next round."""
        self.samples.setdefault((name, concurrency), []).append(sample)

    def names(self) -> list[str]:
        """Names of the systems, in their order."""
        return list(dict.fromkeys(name for name, _ in self.samples))

    def levels(self) -> list[int]:
        """Concurrencies, in their order."""
        return list(dict.fromkeys(concurrency for _, concurrency in self.samples))

    def pairs(self, name: str, other: str, level: int) -> Iterator[tuple[Sample, Sample]]:
        """Samples of two systems of the same round, because load on the machine affects both."""
        return zip(self.samples.get((name, level), ()), self.samples.get((other, level), ()), strict=False)

    def record(self) -> dict[str, Any]:
        """All values, as a JSON document."""
        samples = [
            {"system": name, "concurrency": level, "rounds": [asdict(sample) for sample in values]}
            for (name, level), values in self.samples.items()
        ]
        return {"samples": samples, "resident_mib": self.resident, "h2load": self.streams, "loops": self.loops}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile. Raises StatisticsError without values."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(values: Sequence[float], form: str = "{:.0f}") -> str:
    """Median and quartiles as text; `-` without values."""
    if not values:
        return "-"
    low, middle, high = (form.format(value) for value in quartiles(values))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def numbers(text: str) -> tuple[int, ...]:
    """The value of a command line option such as 1,8,32."""
    return tuple(int(part) for part in text.split(","))
