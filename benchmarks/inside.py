"""Latency of explanations, curves, scores and pictures, for networks of random weights.

    python benchmarks/inside.py [--rounds 30]

The script exports three networks with reference rows and serves them with `kanserve serve` in its own process. `Client`
sends the requests one after the other, so each time includes server, network and client, on an otherwise idle machine.
The table shows the residual of the contributions next to each explanation. The script prints Markdown on stdout.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import overload
import scale
from rich.progress import track

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "service")]

from kanserve.client.sync import Client  # noqa: E402 - as above

NETWORKS = {"[64, 64, 10]": (64, 64, 10), "[784, 64, 10]": (784, 64, 10), "[1000, 1000]": (1000, 1000)}
ROWS = 256  # of a batch, and of the reference


def export(folder: Path) -> Path:
    """The repository of all networks."""
    for at, widths in enumerate(NETWORKS.values()):
        (folder / f"n{at}").mkdir()
        checkpoint = scale.write(scale.Shape(widths, 5), folder / f"n{at}")
        np.save(folder / f"n{at}" / "train.npy", rows(widths[0], 1))
        command = ["export", str(checkpoint), "--repository", str(folder / "models"), "--name", f"n{at}"]
        command += ["--baseline", str(folder / f"n{at}" / "train.npy")]
        subprocess.run([sys.executable, "-m", "kanserve", *command], check=True, capture_output=True)
    return folder / "models"


def rows(width: int, seed: int) -> Any:
    """[ROWS, width] inside the grid."""
    return np.random.default_rng(seed).uniform(-0.9, 0.9, (ROWS, width)).astype(np.float32)


def median(ask: Callable[[], Any], rounds: int) -> str:
    """Milliseconds, after one that does not count."""
    ask()
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        ask()
        times.append((time.perf_counter() - begun) * 1e3)
    return f"{statistics.median(times):.3g} ms"


def plotted(address: str, model: str, target: Path) -> str:
    """Time of one run of the whole command, the start of Python included."""
    begun = time.perf_counter()
    command = ["plot", model, "--url", address, "--output", str(target)]
    subprocess.run([sys.executable, "-m", "kanserve", *command], check=True, capture_output=True)
    return f"{time.perf_counter() - begun:.2g} s"


def measure(client: Client, name: str, rounds: int, folder: Path) -> list[tuple[str, str]]:
    """Pairs of request and time for one network."""
    described = client.describe(name)
    batch = rows(described.input.shape[1], 2)
    explanation = client.explain(described, batch[:1], outputs=[0])
    missed = float(explanation.completeness_error.max() / np.abs(explanation.predictions).max())
    queries: list[tuple[str, Callable[[], Any]]] = [
        ("explain one row, one output", lambda: client.explain(described, batch[:1], outputs=[0])),
        ("explain one row, ten outputs", lambda: client.explain(described, batch[:1], outputs=range(10))),
        ("the ten strongest edges of a row", lambda: client.edges(described, batch[:1], top_k=10)),
        ("one curve", lambda: client.curves(name, layers=[0], sources=[0], destinations=[0])),
        (f"drift of {ROWS} rows", lambda: client.drift(described, batch)),
    ]
    if described.layers[0].sources * described.layers[0].destinations < 10**6:
        queries.append((f"scores over {ROWS} rows", lambda: client.scores(described, batch)))
    lines = [(what, median(ask, rounds)) for what, ask in track(queries, described.name)]
    lines.append(("contributions miss the prediction by, relative", f"{missed:.1e}"))
    for suffix in ("svg", "png"):
        lines.append((f"kanserve plot, {suffix}", plotted(client.url, name, folder / f"{name}.{suffix}")))
    return lines


def main() -> None:
    """Export, serve, measure, print."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, overload.serving(export(Path(place)), "asgi") as served:
        tables = []
        with Client(served.address, timeout=120) as client:
            for at in range(len(NETWORKS)):
                tables.append(dict(measure(client, f"n{at}", args.rounds, Path(place))))
    print(f"| | {' | '.join(NETWORKS)} |\n|---|{'---|' * len(NETWORKS)}")
    for what in tables[0]:
        print(f"| {what} | {' | '.join(table.get(what, '-') for table in tables)} |")
    print(f"\nMedians of {args.rounds}; load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
