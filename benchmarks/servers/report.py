"""Markdown report of the server benchmark: ratios first, then the absolute numbers."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from servers import production as matrix
from servers import targets as goals
from servers.contestants import PORTABLE, TLS, TRITONS
from servers.measured import Measured, Sample, spread

# System and the system that it is compared with.
RATIOS = (
    *(("kanserve asgi", triton) for triton in TRITONS),
    ("kanserve asgi", "no-op grpcio"),
    ("kanserve asgi", "no-op asgi"),
    ("kanserve asgi", "grpc.aio handler"),
    ("kanserve asgi", PORTABLE),
    (TLS, "kanserve asgi"),
    ("kanserve grpcio", "no-op grpcio"),
    ("kanserve asgi", "kanserve grpcio"),
    *((triton, "no-op grpcio") for triton in TRITONS),
)
BETTER = "kanserve asgi / better Triton"
Values = Callable[[Sample], float]


def targets(measured: Mapping[str, Measured], where: str) -> str:
    """The table of targets with its heading. `measured`: by key of the case; empty if it has no case of a target."""
    table = goals.table(measured)
    return f"## Targets, {where}\n\n{machine()}\n\n{table}" if table else ""


def production(measured: Measured, where: str) -> str:
    """The production matrix with its heading."""
    return f"## Production calls, {where}\n\n{machine()}\n\n{matrix.markdown(measured)}"


def markdown(measured: Measured, title: str) -> str:
    """The whole report of one case."""
    parts = [f"## {title}", machine(), _ratios(measured), _loops(measured)]
    parts.append(_table(measured, "inferences per second, higher is better", lambda sample: sample.rate))
    parts.append(_table(measured, "p50 latency in us, lower is better", lambda sample: sample.p50))
    parts.append(_table(measured, "p99 latency in us, lower is better", lambda sample: sample.p99))
    parts.append(_table(measured, "server CPU in us per request, lower is better", lambda sample: sample.cpu))
    parts.append(_memory(measured))
    parts.append(_streams(measured.streams))
    return "\n\n".join(part for part in parts if part) + "\n"


def machine() -> str:
    """Where it was measured, and with what."""
    cpu = next((line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine())
    count = sum(line.startswith("processor") for line in _cpuinfo())
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "grpcio", "h2corn", "perf-analyzer"))
    return (
        f"{cpu}, {count} cores, Python {platform.python_version()}, {packages}. The client runs on the same cores. "
        "Figures are medians (quartiles) of the rounds."
    )


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _ratios(measured: Measured) -> str:
    """Ratios per round, because load on the machine affects both rates of a round."""
    lines = []
    for name, other in RATIOS:
        rounds = [
            [mine.rate / theirs.rate for mine, theirs in measured.pairs(name, other, level)]
            for level in measured.levels()
        ]
        lines.append(_row(f"{name} / {other}", rounds, "{:.2f}x"))
    lines.append(_row(BETTER, [_better(measured, level) for level in measured.levels()], "{:.2f}x"))
    lines = [line for line in lines if line]
    return _head("ratio of rates, higher is better", measured.levels()) + "\n".join(lines) if lines else ""


def _better(measured: Measured, level: int) -> list[float]:
    """Rates relative to the faster configuration of Triton in each round."""
    ours, *others = (measured.samples.get((name, level), []) for name in ("kanserve asgi", *TRITONS))
    best = [max(sample.rate for sample in samples) for samples in zip(*others, strict=False)]
    return [mine.rate / most for mine, most in zip(ours, best, strict=False)]


def _loops(measured: Measured) -> str:
    """Rates relative to sessions without a server."""
    lines = []
    for graph, rates in measured.loops.items():
        ratios = [goals.looped(PORTABLE, graph, level)(measured) for level in measured.levels()]
        lines.append(_row(f"{PORTABLE} / sessions in a loop", ratios, "{:.2f}x"))
        lines.append(_row(f"sessions in a loop, {graph}, rows per second", [rates] * len(measured.levels()), "{:.0f}"))
    lines = [line for line in lines if line]
    return _head("against sessions without a server", measured.levels()) + "\n".join(lines) if lines else ""


def _table(measured: Measured, title: str, value: Values) -> str:
    rows = [
        _row(
            name, [[value(sample) for sample in measured.samples.get((name, level), ())] for level in levels], "{:.0f}"
        )
        for levels in (measured.levels(),)
        for name in measured.names()
    ]
    return _head(title, measured.levels()) + "\n".join(rows)


def _row(name: str, cells: Sequence[Sequence[float]], form: str) -> str:
    """One line; empty without any value."""
    return f"| {name} | {' | '.join(spread(values, form) for values in cells)} |" if any(cells) else ""


def _head(title: str, levels: Sequence[int]) -> str:
    return f"| {title} | {' | '.join(f'c = {level}' for level in levels)} |\n|---|{'---|' * len(levels)}\n"


def _memory(measured: Measured) -> str:
    cells = [f"{name} {mib:.0f}" for name, mib in measured.resident.items()]
    return f"Resident memory at the end, MiB: {', '.join(cells)}." if cells else ""


def _streams(streams: Mapping[str, Sequence[float]]) -> str:
    rows = [f"| {name} | {spread(rates)} |" for name, rates in streams.items()]
    head = "| h2load, 4 connections of 8 streams | requests per second, higher is better |\n|---|---|\n"
    return head + "\n".join(rows) if rows else ""
