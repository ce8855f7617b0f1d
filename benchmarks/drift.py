"""Detection delay and false alarms of the drift alert, on scikit-learn's data and trained networks.

    pip install scikit-learn
    python benchmarks/drift.py [--seeds 20]

For each seed the script splits a data set into halves and exports the network with one half as `--baseline`. It draws
traffic from the other half, with replacement: first 20 000 unchanged rows, then changed rows until the condition of the
alert KanserveDrift holds. The changes: the picture one pixel to the right, a feature in another unit, a sensor stuck at
one number. The script computes the drift as the server does: all node values and the predictions, in two windows of 250
rows, one full and one that fills. It compares their PSI with the no-drift threshold after every 25 rows. The script
prints Markdown on stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.progress import track
from sklearn import datasets

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from kanexport.shared import manifest  # noqa: E402 - as above
from kanserve.insight.statistics import Nodes, Recent  # noqa: E402 - as above
from kanserve.insight.traffic_sampler import ROWS as WINDOW  # noqa: E402 - as above

UNCHANGED, AT_MOST, LOOK = 20_000, 5_000, 25  # rows
CONDITION = 3.0  # times what chance gives: of the alert
Rows = Any  # [N, inputs]


def shifted(rows: Rows) -> Rows:
    """Pictures of 8 by 8, a pixel to the right; what comes in is blank, -1."""
    pictures = rows.reshape(-1, 8, 8)
    blank = np.full_like(pictures[:, :, :1], -1)
    return np.concatenate([blank, pictures[:, :, :-1]], axis=2).reshape(rows.shape)


def rescaled(rows: Rows) -> Rows:
    """The first feature, alcohol, one and a half times as large before it was standardised."""
    raw = datasets.load_wine().data[:, 0]
    rows = rows.copy()
    rows[:, 0] = ((rows[:, 0] * raw.std() + raw.mean()) * 1.5 - raw.mean()) / raw.std()
    return rows


def dropped(rows: Rows) -> Rows:
    """The first feature gives what it gives on average."""
    rows = rows.copy()
    rows[:, 0] = 0
    return rows


def digits() -> Rows:
    return (datasets.load_digits().data / 8 - 1).astype(np.float32)


def standardised(load: Callable[[], Any]) -> Rows:
    data = load().data
    return ((data - data.mean(axis=0)) / data.std(axis=0)).astype(np.float32)


CASES: dict[str, tuple[str, Callable[[], Rows], Callable[[Rows], Rows]]] = {
    "digits, one pixel to the right": ("efficient-kan-digits", digits, shifted),
    "wine, a feature times 1.5": ("efficient-kan-wine-update-grid", lambda: standardised(datasets.load_wine), rescaled),
    "breast cancer, a feature constant": (
        "fastkan-breast-cancer-denominator",
        lambda: standardised(datasets.load_breast_cancer),
        dropped,
    ),
}


class Watch:
    """The drift state that a server would keep for the model in `folder`."""

    def __init__(self, folder: Path) -> None:
        described = manifest.load(folder)
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        self.input = described.inputs[0].name
        self.nodes = Nodes(described, self.session.run)
        self.recent = Recent(self.nodes, WINDOW)

    def take(self, rows: Rows) -> float:
        """The largest ratio of a node's drift to its no-drift threshold, with these rows included."""
        self.recent.add(self.nodes.count(self.session.run, {self.input: rows}))
        compared = self.nodes.compared(self.recent.both())
        return max(node.drift.ratio for node in compared if node.drift is not None)


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """Result of one seed. `looks`: checks on unchanged traffic; `alarms`: checks at which the condition held; `most`:
    the largest ratio at a check; `taken`: changed rows until the condition held (None: it did not hold)."""

    looks: int
    alarms: int
    most: float
    taken: int | None


def once(case: str, seed: int, folder: Path) -> Seen:
    checkpoint, load, change = CASES[case]
    random, rows = np.random.default_rng(seed), load()
    order = random.permutation(len(rows))
    reference, traffic = rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]
    np.save(folder / "reference.npy", reference)
    options = ["--baseline", str(folder / "reference.npy"), "--repository", str(folder / "out"), "--name", "m"]
    golden = ROOT / "tests" / "golden" / "checkpoints" / checkpoint
    command = [sys.executable, "-m", "kanserve", "export", str(next(golden.glob("model.*"))), *options]
    subprocess.run(command, check=True, capture_output=True, text=True)
    watch = Watch(next((folder / "out").rglob("manifest.json")).parent)
    unchanged = [watch.take(traffic[random.integers(len(traffic), size=LOOK)]) for _ in range(UNCHANGED // LOOK)]
    taken = None
    for at in range(AT_MOST // LOOK):
        if watch.take(change(traffic[random.integers(len(traffic), size=LOOK)])) > CONDITION:
            taken = (at + 1) * LOOK
            break
    return Seen(len(unchanged), sum(ratio > CONDITION for ratio in unchanged), max(unchanged), taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    print("| change | noticed within 500 rows | rows until then, median, most | alarms without a change | most seen |")
    print("|---|---|---|---|---|")
    for case in CASES:
        results = []
        for seed in track(range(seeds), description=case):
            with tempfile.TemporaryDirectory() as folder:
                results.append(once(case, seed, Path(folder)))
        taken = [AT_MOST if result.taken is None else result.taken for result in results]
        noticed = f"{sum(count <= 500 for count in taken)} of {seeds}"
        alarmed = sum(result.alarms > 0 for result in results)
        alarms, looks = (sum(getattr(result, name) for result in results) for name in ("alarms", "looks"))
        print(
            f"| {case} | {noticed} | {statistics.median(taken):.0f}, {max(taken)} "
            f"| {alarmed} of {seeds} seeds, {alarms} of {looks} looks "
            f"| {max(result.most for result in results):.2f} of {CONDITION:g} |"
        )


if __name__ == "__main__":
    main()
