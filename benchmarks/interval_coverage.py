"""Coverage of prediction intervals and sets on new rows, for docs/guides/explain/intervals.md.

    make setup TORCH=1
    python benchmarks/interval_coverage.py [--seeds 20] [--docs]

For each data set and seed, the script draws rows from a known distribution, trains a KAN (efficient-kan's layer) on the
first part of them, and exports it with `--calibration` and `--coverage 0.9` on the second part. Then it runs the
exported graph on the third part, computes the intervals as the server does, and counts the targets in them. The script
needs some minutes and prints Markdown on stdout. `--docs` stores the results and writes the table into the page.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from benchmarks import pages  # noqa: E402 - after the path is set
from kanexport.bundle import calibration  # noqa: E402 - as above
from kanexport.pipeline import Request, export  # noqa: E402 - as above
from kanexport.shared.ort import onnxruntime  # noqa: E402 - as above
from kanexport.shared.sections import ABSOLUTE, LAC, NORMALIZED, Intervals  # noqa: E402 - as above
from kanserve.analysis import intervals  # noqa: E402 - as above
from tests.support.torch_modules import KANLinear  # noqa: E402 - as above

PAGE, WRITER = ROOT / "docs" / "guides" / "explain" / "intervals.md", "benchmarks/interval_coverage.py"
RESULTS = ROOT / "docs" / "benchmarks" / "results" / "interval_coverage.json"
TRAINING, CALIBRATION, TESTING = 1000, 4000, 20_000
COVERAGE, STEPS = 0.9, 200
Rows = Any  # [N, inputs]
MEANS = np.array([[-0.5, -0.3], [0.5, -0.3], [0.0, 0.5]])  # of the classes


def noisy(rng: np.random.Generator, count: int) -> tuple[Rows, Any]:
    """exp(sin(pi a) + b^2), with normal noise that grows with the value."""
    x = rng.uniform(-1, 1, (count, 2))
    y = np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)
    return x, y + rng.normal(size=count) * (0.05 + 0.2 * y)


def feynman(rng: np.random.Generator, count: int) -> tuple[Rows, Any]:
    """Feynman's I.6.20, with Laplace noise of the same spread everywhere."""
    x = rng.uniform((-1.0, 0.5), (1.0, 2.0), (count, 2))
    y = np.exp(-(x[:, 0] ** 2) / (2 * x[:, 1] ** 2)) / (np.sqrt(2 * np.pi) * x[:, 1])
    return x, y + rng.laplace(scale=0.05, size=count)


def classes(rng: np.random.Generator, count: int) -> tuple[Rows, Any]:
    """Three overlapping normal distributions in the plane, as labels 0 to 2."""
    labels = rng.integers(0, 3, count)
    return MEANS[labels] + rng.normal(scale=0.45, size=(count, 2)), labels


@dataclass(frozen=True, slots=True)
class DataSet:
    """`draw` returns rows and targets; `methods` of the intervals."""

    name: str
    draw: Callable[[np.random.Generator, int], tuple[Rows, Any]]
    outputs: int
    methods: tuple[str, ...]


SETS = (
    DataSet("exp(sin(πa) + b²), noise grows with the value", noisy, 1, (ABSOLUTE, NORMALIZED)),
    DataSet("Feynman I.6.20, Laplace noise", feynman, 1, (ABSOLUTE, NORMALIZED)),
    DataSet("three normal distributions, 3 classes", classes, 3, (LAC,)),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """Results over all seeds.

    coverage  share of test rows in their interval or set, for each seed
    size      mean width, or mean number of classes, for each seed
    quarters  coverage of the quarters of test rows with the smallest and the largest predicted value, mean over seeds
    """

    name: str
    method: str
    coverage: tuple[float, ...]
    size: tuple[float, ...]
    quarters: tuple[float, float] | None


class Network(torch.nn.Module):
    """A KAN with one hidden layer of 5 nodes."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([KANLinear(2, 5), KANLinear(5, outputs)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 2] -> [B, outputs]."""
        for layer in self.layers:
            x = layer(x)
        return x


def trained(data: DataSet, seed: int, x: Rows, y: Any) -> Network:
    """The network after training on the rows."""
    torch.manual_seed(seed)
    network = Network(data.outputs)
    rows = torch.tensor(x, dtype=torch.float32)
    whole = data.outputs > 1
    wanted = torch.tensor(y, dtype=torch.int64 if whole else torch.float32)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    for _ in range(STEPS):
        optimizer.zero_grad()
        predicted = network(rows)
        loss = (
            torch.nn.functional.cross_entropy(predicted, wanted)
            if whole
            else torch.nn.functional.mse_loss(predicted[:, 0], wanted)
        )
        loss.backward()
        optimizer.step()
    return network


def measured(data: DataSet, seed: int) -> Iterator[tuple[str, float, float, tuple[float, float] | None]]:
    """Method, coverage, size and coverage of the quarters, for each method of the data set."""
    rng = np.random.default_rng(1000 + seed)
    x, y = data.draw(rng, TRAINING + CALIBRATION + TESTING)
    parts = np.split(np.arange(len(x)), [TRAINING, TRAINING + CALIBRATION])
    network = trained(data, seed, x[parts[0]], y[parts[0]])
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), Path(folder, "net.pt"))
        np.savez(Path(folder, "rows.npz"), x=x[parts[1]], y=y[parts[1]])
        for method in data.methods:
            wanted = calibration.options(Path(folder, "rows.npz"), COVERAGE, "" if method == LAC else method)
            request = Request(
                path=Path(folder, "net.pt"), repository=Path(folder, "models"), name=method, intervals=wanted
            )
            done = export(request)
            section = done.manifest.intervals
            assert section.method == method
            session = onnxruntime.InferenceSession((done.directory / "model.onnx").read_bytes())
            (outputs,) = session.run(["y"], {"x": x[parts[2]].astype(np.float32)})
            yield method, *counted(section, outputs, y[parts[2]])


def counted(section: Intervals, outputs: Any, y: Any) -> tuple[float, float, tuple[float, float] | None]:
    """Coverage, size, and coverage of the quarters."""
    found = intervals.of(section, outputs)
    if section.method == LAC:
        return float(found[np.arange(len(y)), y].mean()), float(found.sum(axis=1).mean()), None
    low, high = found[:, 0, 0], found[:, 0, 1]
    inside = (low <= y) & (y <= high)
    order = np.argsort(outputs[:, 0])
    quarter = len(order) // 4
    return (
        float(inside.mean()),
        float((high - low).mean()),
        (float(inside[order[:quarter]].mean()), float(inside[order[-quarter:]].mean())),
    )


def measure(data: DataSet, seeds: int) -> Iterator[Measured]:
    """The results of each method."""
    results: dict[str, list[tuple[float, float, tuple[float, float] | None]]] = {}
    for seed in track(range(seeds), description=data.name, console=Console(stderr=True)):
        for method, *rest in measured(data, seed):
            results.setdefault(method, []).append(tuple(rest))
    for method, rows in results.items():
        coverage, size, quarters = zip(*rows, strict=True)
        ends = None if None in quarters else tuple(np.mean(quarters, axis=0).tolist())
        yield Measured(data.name, method, coverage, size, ends)


def table(results: list[Mapping[str, Any]], about: str) -> str:
    """Markdown."""
    lines = [
        "| data | method | coverage, mean | smallest | largest | width, or set size | lowest 25% | highest 25% |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for own in results:
        coverage, quarters = np.array(own["coverage"]), own["quarters"]
        ends = " | ".join(f"{share:.1%}" for share in quarters) if quarters else "- | -"
        lines.append(
            f"| {own['name']} | `{own['method']}` | {coverage.mean():.2%} | {coverage.min():.2%} | "
            f"{coverage.max():.2%} | {np.mean(own['size']):.3g} | {ends} |"
        )
    return "\n".join([*lines, "", about, ""])


def arguments(description: str | None, seeds: int) -> argparse.Namespace:
    """The arguments `seeds` and `docs` of a script that measures these data sets."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--docs", action="store_true", help="write the table into the page")
    return parser.parse_args()


def about(writer: str, seeds: int, method: str) -> str:
    """The sentence below a table: command, rows, method, machine and date."""
    machine = f"{os.cpu_count()} shared cores, {platform.machine().replace('_', '-')}"
    return (
        f"`python {writer}`, {seeds} seeds, {TRAINING} training rows, {CALIBRATION} calibration rows and "
        f"{TESTING} test rows per seed, {method}; {machine}, {datetime.date.today()}."
    )


def main() -> None:
    args = arguments(__doc__, 20)
    torch.set_num_threads(1)
    results = [asdict(own) for data in SETS for own in measure(data, args.seeds)]
    sentence = about(WRITER, args.seeds, f"nominal coverage {COVERAGE:.0%}")
    text = table(results, sentence)
    print(text)
    if args.docs:
        RESULTS.write_text(json.dumps({"about": sentence, "results": results}, indent=1) + "\n")
        pages.put(PAGE, "coverage of intervals", WRITER, text)


if __name__ == "__main__":
    main()
