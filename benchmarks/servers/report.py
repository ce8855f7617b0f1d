"""Markdown report of the server benchmark: ratios first, then the absolute numbers."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from servers.load import Sample

Key = tuple[str, int]  # contestant, concurrency
# System and the system that it is compared with.
RATIOS = (
    ("kanserve asgi", "triton"),
    ("kanserve asgi", "grpc.aio handler"),
    ("kanserve asgi", "no-op asgi"),
    ("kanserve asgi, TLS", "kanserve asgi"),
    ("kanserve grpcio", "no-op grpcio"),
    ("kanserve asgi", "kanserve grpcio"),
)


@dataclass
class Measured:
    """All samples of one report. `resident`: MiB of each server at the end; `streams`: h2load's requests per second."""

    samples: dict[Key, list[Sample]] = field(default_factory=dict)
    resident: dict[str, float] = field(default_factory=dict)
    streams: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, concurrency: int, sample: Sample) -> None:
        """One more."""
        self.samples.setdefault((name, concurrency), []).append(sample)

    def names(self) -> list[str]:
        """Names of the systems, in their order."""
        return list(dict.fromkeys(name for name, _ in self.samples))

    def levels(self) -> list[int]:
        """Concurrencies, in their order."""
        return list(dict.fromkeys(concurrency for _, concurrency in self.samples))


def markdown(measured: Measured, title: str) -> str:
    """The whole report."""
    parts = [f"## {title}", machine(), _ratios(measured)]
    parts.append(_table(measured, "inferences per second, median (quartiles), higher is better", _rates))
    parts.append(_table(measured, "p50 / p99 in us, medians, lower is better", _latencies))
    parts.append(_table(measured, "server CPU us per request, median, lower is better", _cpu))
    parts.append(_memory(measured))
    if measured.streams:
        parts.append(_streams(measured.streams))
    return "\n\n".join(part for part in parts if part) + "\n"


def machine() -> str:
    """Where it was measured, and with what."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    count = sum(line.startswith("processor") for line in _cpuinfo())
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "h2corn", "perf-analyzer"))
    return f"{cpu}, {count} cores, Python {platform.python_version()}, {packages}. The client runs on the same cores."


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _ratios(measured: Measured) -> str:
    """Medians of the ratios per round, because load on the machine affects both rates of a round."""
    lines = []
    for ours, other in RATIOS:
        cells = []
        for level in measured.levels():
            pairs = zip(measured.samples.get((ours, level), ()), measured.samples.get((other, level), ()), strict=False)
            cells.append(_median([mine.rate / theirs.rate for mine, theirs in pairs], "{:.2f}x"))
        if any(cell != "-" for cell in cells):
            lines.append(f"| {ours} / {other} | {' | '.join(cells)} |")
    return _head("ratio of rates, higher is better", measured.levels()) + "\n".join(lines) if lines else ""


def _table(measured: Measured, title: str, cell: Callable[[Sequence[Sample]], str]) -> str:
    rows = [
        f"| {name} | {' | '.join(cell(measured.samples.get((name, level), ())) for level in measured.levels())} |"
        for name in measured.names()
    ]
    return _head(title, measured.levels()) + "\n".join(rows)


def _head(title: str, levels: Sequence[int]) -> str:
    return f"| {title} | {' | '.join(f'c = {level}' for level in levels)} |\n|---|{'---|' * len(levels)}\n"


def _rates(samples: Sequence[Sample]) -> str:
    rates = [sample.rate for sample in samples]
    if len(rates) < 2:
        return _median(rates, "{:.0f}")
    low, middle, high = statistics.quantiles(rates, n=4, method="inclusive")
    return f"{middle:.0f} ({low:.0f} to {high:.0f})"


def _latencies(samples: Sequence[Sample]) -> str:
    return f"{_median([s.p50 for s in samples], '{:.0f}')} / {_median([s.p99 for s in samples], '{:.0f}')}"


def _cpu(samples: Sequence[Sample]) -> str:
    return _median([sample.cpu for sample in samples], "{:.0f}")


def _median(values: Sequence[float], form: str) -> str:
    return form.format(statistics.median(values)) if values else "-"


def _memory(measured: Measured) -> str:
    cells = [f"{name} {mib:.0f}" for name, mib in measured.resident.items()]
    return f"Resident memory at the end, MiB: {', '.join(cells)}."


def _streams(streams: Mapping[str, Sequence[float]]) -> str:
    rows = [f"| {name} | {statistics.median(rates):.0f} |" for name, rates in streams.items()]
    return "| h2load, 4 connections of 8 streams | requests per second, higher is better |\n|---|---|\n" + "\n".join(
        rows
    )
