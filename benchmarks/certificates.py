"""Search for rows whose output leaves its certified range, by gradient ascent on served graphs.

    python benchmarks/certificates.py [--budget 10s] [--docs]

Each golden checkpoint that `kanserve certify` supports is certified and exported. The search starts from random rows
and the most extreme of them. It moves along the sign of the gradient, which differences of the float32 graph give, and
counts every row whose output is outside the certified range. `--docs` writes the table into
docs/guides/explain/certificates.md. The exit code is 1 if a row was found.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import pages  # noqa: E402 - beside this file

PAGE, WRITER = ROOT / "docs" / "guides" / "explain" / "certificates.md", "benchmarks/certificates.py"
GOLDEN = ROOT / "tests" / "golden" / "checkpoints"
# Checkpoints with the options that their files need.
CASES = {
    "pykan-hello-adapted/model": (),
    "pykan-hello-pruned/model": (),
    "pykan-hello-symbolic/model": (),
    "pykan-feynman-I.6.20/model": (),
    "pykan-knot-signature/model": (),
    "pykan-mult-affine/model": (),
    "pykan-diabetes/model": (),
    "pykan-prune-input/model": ("--option", "input_id=0,2", "--option", "n_inputs=4"),
    "inkan-hello/model.pt": (),
    "efficient-kan-wine-update-grid/model.pt": (),
    "efficient-kan-digits/model.pt": (),
}
RANDOM, BEST, STEPS = 40_000, 200, 25
Run = Callable[[np.ndarray], np.ndarray]


@dataclass(slots=True)
class Attack:
    """Search in one certified box. `points`: rows that ran; `outside`: those with an output outside its range."""

    run: Run
    low: np.ndarray
    high: np.ndarray
    least: np.ndarray
    most: np.ndarray
    points: int = 0
    outside: int = 0

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """The outputs [B, O] of rows in the box, counted."""
        first = np.nextafter(self.low.astype(np.float32), np.float32(np.inf))
        last = np.nextafter(self.high.astype(np.float32), np.float32(-np.inf))
        values = self.run(np.clip(rows, first, last).astype(np.float32))
        self.points += len(rows)
        self.outside += int(((values < self.least) | (values > self.most)).any(axis=1).sum())
        return values

    def search(self, rng: np.random.Generator) -> np.ndarray:
        """The range [2, O] that random rows and ascent find."""
        rows = rng.uniform(self.low, self.high, (RANDOM, len(self.low)))
        values = self.outputs(rows)
        found = np.empty((2, values.shape[1]))
        for at in range(values.shape[1]):
            for side, sign in enumerate((-1, 1)):
                starts = rows[np.argsort(-sign * values[:, at])[:BEST]]
                more = rng.uniform(self.low, self.high, (BEST, len(self.low)))
                found[side, at] = sign * self.ascend(np.concatenate([starts, more]), at, sign)
        return found

    def ascend(self, rows: np.ndarray, at: int, sign: int) -> float:
        """The largest value of `sign` times an output along the ascent of many rows."""
        span = self.high - self.low
        step, best = span / 20, sign * self.outputs(rows)[:, at]
        for _ in range(STEPS):
            slope = np.empty_like(rows)
            for column in range(rows.shape[1]):
                moved = np.zeros(rows.shape[1])
                moved[column] = 1e-3 * span[column]
                slope[:, column] = sign * (self.outputs(rows + moved) - self.outputs(rows - moved))[:, at]
            candidates = rows + step * np.sign(slope)
            values = sign * self.outputs(candidates)[:, at]
            better = values > best
            rows[better], best[better] = candidates[better], values[better]
            if not better.any():
                step = step / 2
        return float(best.max())


def command(*words: str) -> dict[str, Any]:
    """The JSON document of a command. Raises RuntimeError."""
    done = subprocess.run([sys.executable, "-m", "kanserve", *words, "--json"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr + done.stdout)
    return dict(json.loads(done.stdout))


def attack(name: str, options: tuple[str, ...], budget: str) -> tuple[Attack, float]:
    """A finished search, and the largest ratio of a certified range to the one that was found."""
    path = str(GOLDEN / name)
    document = command("certify", path, "--budget", budget, *options)
    least, most = (np.array([output[end] for output in document["outputs"]]) for end in ("low", "high"))
    box = {end: np.array(values) for end, values in document["box"].items()}
    with tempfile.TemporaryDirectory() as folder:
        command("export", path, "--repository", folder, "--name", "model", *options)
        session = onnxruntime.InferenceSession(str(Path(folder) / "model" / "1" / "model.onnx"))
    feed, result = session.get_inputs()[0].name, session.get_outputs()[0].name
    done = Attack(lambda rows: session.run([result], {feed: rows})[0], box["low"], box["high"], least, most)
    low, high = done.search(np.random.default_rng(1))
    return done, float(np.max((most - least) / (high - low)))


def main() -> int:
    """Search, and print. Returns 1 if a row left its range."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget", default="10s", help="of each certificate")
    parser.add_argument("--docs", action="store_true", help="write the table into the guide")
    args = parser.parse_args()
    lines = ["| checkpoint | rows | outside | certified / found |", "|---|---|---|---|"]
    points = outside = 0
    for name, options in CASES.items():
        done, ratio = attack(name, options, args.budget)
        points, outside = points + done.points, outside + done.outside
        lines.append(f"| {name.partition('/')[0]} | {done.points:,} | {done.outside} | {ratio:.3g} |")
        print(lines[-1], file=sys.stderr, flush=True)
    lines.append(f"| all | {points:,} | {outside} | |")
    when = datetime.datetime.now(datetime.UTC).date()
    facts = f"{os.cpu_count()} shared {platform.machine()} cores, onnxruntime {onnxruntime.__version__}, {when}"
    text = "\n".join([*lines, "", f"`python {WRITER}`, budget {args.budget}, {facts}.", ""])
    print(text)
    if args.docs:
        pages.put(PAGE, "search", WRITER, text)
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
