"""Time, memory and error of `kanserve infer` on a large table, compared with a loop of pandas and onnxruntime.

    python benchmarks/tables.py [--rows 1000000] [--columns 20] [--rounds 3] [--forms csv,parquet,feather,npy]

The script exports a network [columns, 8, 1] of random weights and serves it on loopback in its own process. The loop
reads the CSV with pandas, runs the exported graph on 4096 rows at a time in its own process, and writes a CSV;
`kanserve infer` reads each form and writes a CSV. Each round runs every command once, and each ratio compares two times
of one round. The error is the largest difference between the written outputs, relative to the largest output. RSS is
the peak of the client's process, or of the loop's. The script prints Markdown on stdout.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from tests.support.command_line import checkpoint  # noqa: E402 - after the path is set

KANSERVE = (sys.executable, "-m", "kanserve")
LOOP = """
import sys
import numpy as np, onnxruntime, pandas
graph, source, target = sys.argv[1:]
session = onnxruntime.InferenceSession(graph)
rows = pandas.read_csv(source).to_numpy(np.float32)
parts = [session.run(["y"], {"x": rows[at : at + 4096]})[0] for at in range(0, len(rows), 4096)]
pandas.DataFrame(np.concatenate(parts), columns=["y0"]).to_csv(target, index=False)
"""
# In a small process: the peak of a forked process includes the pages of its parent.
TIMED = """
import json, os, subprocess, sys, time
begun = time.monotonic()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), time.monotonic() - begun, usage.ru_maxrss]))
"""


@dataclass
class Entrant:
    """A measured command with its figures per round."""

    name: str
    command: tuple[str, ...]
    target: Path
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)  # MiB

    def run(self) -> None:
        """Run the command once. Raises RuntimeError."""
        done = subprocess.run((sys.executable, "-c", TIMED, *self.command), capture_output=True, text=True, check=True)
        code, seconds, peak = json.loads(done.stdout)
        if code:
            raise RuntimeError(f"{self.name} ended with {code}: {done.stderr}")
        self.seconds.append(seconds)
        self.peaks.append(peak / 1024)

    def outputs(self) -> Any:
        """The outputs that the command wrote."""
        return pd.read_csv(self.target).to_numpy(np.float32)


def files(folder: Path, rows: int, columns: int, forms: list[str]) -> None:
    """The same rows in each form."""
    numbers = np.random.default_rng(0).uniform(-2, 2, (rows, columns)).astype(np.float32)
    frame = pd.DataFrame(numbers, columns=[f"x{at}" for at in range(columns)])
    frame.to_csv(folder / "rows.csv", index=False)
    if "parquet" in forms:
        frame.to_parquet(folder / "rows.parquet", index=False)
    if "feather" in forms:
        frame.to_feather(folder / "rows.feather")
    if "npy" in forms:
        np.save(folder / "rows.npy", numbers)


@contextlib.contextmanager
def served(folder: Path, columns: int) -> Iterator[str]:
    """The address of a server of the network."""
    state = checkpoint(folder / "wide.safetensors", (columns, 8, 1))
    subprocess.run(
        [*KANSERVE, "export", str(state), "--repository", str(folder / "models"), "--name", "wide"],
        check=True,
    )
    flags = ("--grpc-port", "0", "--metrics-port", "0", "--json")
    command = [*KANSERVE, "serve", str(folder / "models"), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["grpc"]
        finally:
            process.terminate()


def entrants(folder: Path, url: str, forms: list[str]) -> list[Entrant]:
    """The loop, and the command for each form."""
    graph, source, target = (str(folder / name) for name in ("models/wide/1/model.onnx", "rows.csv", "loop.csv"))
    commands = [
        Entrant("pandas and onnxruntime, csv", (sys.executable, "-c", LOOP, graph, source, target), Path(target))
    ]
    for form in forms:
        target = str(folder / f"{form}-out.csv")
        arguments = ("infer", "wide", "--input", str(folder / f"rows.{form}"), "--output", target, "--url", url)
        commands.append(Entrant(f"kanserve infer, {form}", (*KANSERVE, *arguments), Path(target)))
    return commands


def report(entrants: list[Entrant], rows: int) -> None:
    """A row for each command."""
    loop, expected = entrants[0], entrants[0].outputs()
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {len(loop.seconds)} rounds\n"
    )
    print("| | s, median (range) | relative time (range) | rows per second | peak RSS, MiB | error |")
    print("|---|---|---|---|---|---|")
    for entrant in entrants:
        ratios = [mine / other for mine, other in zip(entrant.seconds, loop.seconds, strict=True)]
        error = np.abs(entrant.outputs() - expected).max() / np.abs(expected).max()
        middle = statistics.median(entrant.seconds)
        print(
            f"| {entrant.name} | {middle:.1f} ({min(entrant.seconds):.1f} to {max(entrant.seconds):.1f}) | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {rows / middle:.0f} | "
            f"{max(entrant.peaks):.0f} | {error:.0e} |"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--forms", type=lambda text: text.split(","), default=["csv", "parquet", "feather", "npy"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files(folder, args.rows, args.columns, args.forms)
        with served(folder, args.columns) as url:
            commands = entrants(folder, url, args.forms)
            for at in range(args.rounds):
                for entrant in commands[at % len(commands) :] + commands[: at % len(commands)]:
                    entrant.run()
        report(commands, args.rows)


if __name__ == "__main__":
    main()
