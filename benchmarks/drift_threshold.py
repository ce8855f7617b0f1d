"""False alarms of the no-drift threshold, compared with fixed PSI thresholds, on windows without drift.

    python benchmarks/drift_threshold.py [--windows 1000]

For each size, the script draws a baseline and windows from the same normal distribution, counts them in the bins of a
grid, and compares them as the server does. An alarm is a window in which a node's PSI is above the threshold. Markdown
on stdout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from kanexport.shared import grids  # noqa: E402 - as above
from kanexport.shared.sections import NodeBaseline  # noqa: E402 - as above
from kanserve.analysis import drift  # noqa: E402 - as above
from kanserve.analysis.histogram import Cells, Window  # noqa: E402 - as above

BOUNDS = tuple(np.linspace(-2, 2, 11).tolist())  # 12 bins, with the two outer ones
FIXED = (0.1, 0.25)  # thresholds of common rules of thumb
SIZES = ((1, 1000, 100), (16, 350, 350), (13, 1000, 100), (13, 1000, 500), (64, 1000, 500), (13, 10_000, 5000))
STD = 0.6


def baseline(values: np.ndarray) -> NodeBaseline:
    """The baseline of rows [N, n]."""
    counts, nonfinite = zip(*(grids.count(BOUNDS, values[:, at]) for at in range(values.shape[1])), strict=True)
    zeros = (0.0,) * values.shape[1]
    return NodeBaseline(cells=(BOUNDS,), counts=counts, nonfinite=nonfinite, mean=zeros, std=zeros)


def alarms(nodes: int, before: int, now: int, windows: int) -> list[float]:
    """Share of windows with an alarm: for the no-drift threshold, and for each fixed one."""
    rng = np.random.default_rng(nodes + before + now)
    found = np.zeros((windows, 1 + len(FIXED)), bool)
    for at in track(range(windows), description=f"{nodes} nodes, {now} rows", console=Console(stderr=True)):
        reference = baseline(rng.normal(0, STD, (before, nodes)))
        window = Window(Cells.from_bounds([BOUNDS], nodes))
        window.add(rng.normal(0, STD, (now, nodes)))
        result = drift.compare(reference, before, window, now)
        found[at] = [result.drifted.any(), *(bool((result.psi > level).any()) for level in FIXED)]
    return found.mean(axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=1000)
    windows = parser.parse_args().windows
    print("| nodes | baseline rows | window rows | no-drift threshold | PSI > 0.1 | PSI > 0.25 |")
    print("|---|---|---|---|---|---|")
    for nodes, before, now in SIZES:
        shares = " | ".join(f"{share:.1%}" for share in alarms(nodes, before, now, windows))
        print(f"| {nodes} | {before} | {now} | {shares} |")


if __name__ == "__main__":
    main()
