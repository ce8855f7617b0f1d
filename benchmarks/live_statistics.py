"""Cost of live traffic statistics, and accuracy of the edge scores that the server computes from them.

    python benchmarks/live_statistics.py [--seconds 2] [--rounds 8]
    python benchmarks/live_statistics.py --scores

The first command serves networks of random weights on three servers, with statistics off, sampled and full. On one
connection, 32 clients send single-row requests to each server, interleaved every few seconds, so that other load on the
machine affects all servers. The table shows requests per second, and the CPU time of the server's threads per thousand
requests, as medians over all rounds. Each has its ratio to the server without statistics in the same round. `thread` is
the share of CPU time of the thread that analyses sampled rows. The table also shows the number of sampled rows, and the
server's memory at the start and end.

The second command requests 2000 rows around the middle of the grid from each golden checkpoint with curves. It compares
the scores that EdgeScores returns for these rows with those from the sampled statistics. Markdown on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import overload
import scale
from overload import Served
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from kanexport.shared import manifest  # noqa: E402 - as above
from kanserve.client.sync import Client  # noqa: E402 - as above
from kanserve.errors import KanserveError  # noqa: E402 - as above
from kanserve.insight import edge_scores  # noqa: E402 - as above
from kanserve.insight.edge_queries import LayerGraph  # noqa: E402 - as above
from kanserve.insight.statistics import Nodes  # noqa: E402 - as above
from kanserve.models.loader import STATISTICS  # noqa: E402 - as above
from kanserve.runtime import base  # noqa: E402 - as above
from kanserve.services import kan  # noqa: E402 - as above
from tests.support.golden_cases import Case, cases  # noqa: E402 - as above

NETWORKS = {"[64, 64, 10]": (64, 64, 10), "[784, 64, 10]": (784, 64, 10)}
MODES = ("off", "sampled", "full")
CALLERS = 32
TICK = os.sysconf("SC_CLK_TCK")
DRAWN = 2000  # rows
SPREADS = (0.25, 0.6)  # of the rows, by half of the range of the rows of the export


def export(folder: Path) -> Path:
    """The repository of all networks, each with rows as reference."""
    for at, widths in enumerate(NETWORKS.values()):
        (folder / f"n{at}").mkdir()
        checkpoint = scale.write(scale.Shape(widths, 5), folder / f"n{at}")
        rows = np.random.default_rng(1).uniform(-0.9, 0.9, (256, widths[0])).astype(np.float32)
        np.save(folder / f"n{at}" / "train.npy", rows)
        command = ["export", str(checkpoint), "--repository", str(folder / "models"), "--name", f"n{at}"]
        command += ["--baseline", str(folder / f"n{at}" / "train.npy")]
        subprocess.run([sys.executable, "-m", "kanserve", *command], check=True, capture_output=True)
    return folder / "models"


@contextlib.contextmanager
def servers(repository: Path) -> Iterator[dict[str, Served]]:
    """One for each mode."""
    with contextlib.ExitStack() as stack:
        by_mode = {}
        for mode in MODES:
            os.environ["KANSERVE_STATISTICS"] = mode
            by_mode[mode] = stack.enter_context(overload.serving(repository, "asgi"))
        del os.environ["KANSERVE_STATISTICS"]
        yield by_mode


def spent(served: Served) -> tuple[float, float]:
    """CPU seconds of all threads of a server, and of the thread that analyzes rows."""
    seconds_used = [0.0, 0.0]
    for task in Path(f"/proc/{served.process.pid}/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / TICK
        seconds_used[0] += seconds
        seconds_used[1] += seconds if (task / "comm").read_text().strip() == STATISTICS else 0.0
    return seconds_used[0], seconds_used[1]


async def request_rate(address: str, data: bytes, seconds: float) -> float:
    """Requests a second of all callers."""
    count, end = 0, time.perf_counter() + seconds
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(overload.METHOD)

        async def caller() -> None:
            nonlocal count
            while time.perf_counter() < end:
                await call(data, timeout=30)
                count += 1

        begun = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        return count / (time.perf_counter() - begun)


def turn(served: Served, data: bytes, seconds: float) -> tuple[float, float]:
    """Requests a second, and CPU milliseconds of one thousand."""
    before, _ = spent(served)
    rate = asyncio.run(request_rate(served.address, data, seconds))
    return rate, (spent(served)[0] - before) * 1e6 / (rate * seconds)


def cost(seconds: float, rounds: int) -> None:
    """Serve, measure, print."""
    with tempfile.TemporaryDirectory() as place, servers(export(Path(place))) as by_mode:
        print("| network | statistics | requests/s | ratio | CPU ms per 1000 | ratio | thread | analyzed rows | MiB |")
        print("|---|---|---|---|---|---|---|---|---|")
        for at, (name, widths) in enumerate(NETWORKS.items()):
            data = overload.message(f"n{at}", 1, widths[0])
            for served in by_mode.values():
                turn(served, data, seconds)
            before = {mode: spent(served) for mode, served in by_mode.items()}
            sizes = {mode: served.rss() for mode, served in by_mode.items()}
            turns: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
            for _ in track(range(rounds), name):
                for mode in random.sample(MODES, len(MODES)):
                    turns[mode].append(turn(by_mode[mode], data, seconds))
            for mode, served in by_mode.items():
                total, own = (now - then for now, then in zip(spent(served), before[mode], strict=True))
                looked = f"{own / total:.1%} | {_looked(served, f'n{at}', mode)}"
                print(_line(name, mode, turns, looked, sizes[mode], served.rss()))
    print(
        f"\n{CALLERS} callers, one row each; medians of {rounds} turns of {seconds:g} s; load of the machine "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores."
    )


def _line(name: str, mode: str, turns: dict[str, list[tuple[float, float]]], looked: str, *sizes: float) -> str:
    """Ratios are means of those of each round, with their standard errors."""
    cells = []
    for what in (0, 1):
        own, without = [figures[what] for figures in turns[mode]], [figures[what] for figures in turns["off"]]
        ratios = np.log([mine / other for mine, other in zip(own, without, strict=True)])
        error = ratios.std(ddof=1) / np.sqrt(len(ratios))
        cells += [f"{statistics.median(own):.0f}", f"{np.exp(ratios.mean()):.3f} ± {error:.3f}"]
    return f"| {name} | {mode} | {' | '.join(cells)} | {looked} | {sizes[0]:.0f} to {sizes[1]:.0f} |"


def _looked(served: Served, model: str, mode: str) -> str:
    if mode == "off":
        return "-"
    time.sleep(1)
    with Client(served.address) as client:
        counts = client.statistics(model)
    return f"{counts.row_count / counts.rows_seen:.1%} of {counts.rows_seen}"


def apart(live: Any, expected: Any, what: str) -> float:
    """The largest difference, by the largest of its layer."""
    pairs = [
        (getattr(live_layer, what), getattr(exact_layer, what))
        for live_layer, exact_layer in zip(live, expected, strict=True)
    ]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def compared(case: Case, folder: Path) -> tuple[list[float], bool] | None:
    """How far scores of edges and nodes are apart, and whether sums were assumed anywhere; None where it has none."""
    command = ["export", str(case.path), "--repository", str(folder), "--name", "m", "--force"]
    command += case.facts["export_args"]
    if subprocess.run([sys.executable, "-m", "kanserve", *command], check=False, capture_output=True).returncode:
        return None
    document = manifest.load(folder / "m" / "1")
    try:
        for at in range(len(document.layers)):
            kan.alone(document, at)
    except KanserveError:
        return None
    if document.source.family == manifest.HYBRID:
        return None
    files = {path.name: path.read_bytes() for path in (folder / "m" / "1").iterdir() if path.is_file()}
    options = base.SessionOptions("cpu", 1)
    create = functools.partial(base.create_session, files, document, options=options)
    session = create("model.onnx")
    graphs = tuple(LayerGraph(layer, functools.partial(create, layer.edges_file)) for layer in document.layers)
    low, high = (end(np.array(document.reference.inputs), axis=0) for end in (np.min, np.max))
    lines, assumed = [], False
    for spread in SPREADS:
        rows = np.random.default_rng(0).normal((low + high) / 2, (high - low) * spread / 2, (DRAWN, len(low)))
        dtype = np.float32 if document.input.datatype == "FP32" else np.float64
        feeds: Any = {document.input.name: rows.astype(dtype).reshape(-1, *document.input.shape[1:])}
        tally = Nodes(document, session.run).count(session.run, feeds)
        (live,) = filter(None, edge_scores.traffic_scores(graphs, document, tally))
        (exact,) = filter(None, edge_scores.edge_scores(session, graphs, document, feeds, chunk_bytes=2**25))
        lines += [apart(live.layers, exact, what) for what in ("edges", "nodes")]
        assumed = assumed or bool(live.notes)
    return lines, assumed


def distances() -> None:
    """Export, reckon, print."""
    print("| checkpoint | edges, narrow | nodes | edges, wide | nodes | sums |\n|---|---|---|---|---|---|")
    every: dict[bool, list[list[float]]] = {False: [], True: []}
    for case in track(list(cases()), "checkpoints"):
        with tempfile.TemporaryDirectory() as place:
            result = compared(case, Path(place))
        if result is not None:
            every[result[1]].append(result[0])
            numbers = " | ".join(f"{value:.2%}" for value in result[0])
            print(f"| {case.name} | {numbers} | {'assumed independent' if result[1] else 'counted'} |")
    for assumed, lines in every.items():
        values = np.array(lines)
        edges, nodes = values[:, ::2], values[:, 1::2]
        print(
            f"\nSums {'assumed' if assumed else 'counted'}, {len(lines)} checkpoints: edges at most {edges.max():.2%}, "
            f"median {np.median(edges):.2%}; nodes at most {nodes.max():.2%}, median {np.median(nodes):.2%}."
        )


def main() -> None:
    """One of both."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--scores", action="store_true")
    args = parser.parse_args()
    if args.scores:
        distances()
    else:
        cost(args.seconds, args.rounds)


if __name__ == "__main__":
    main()
