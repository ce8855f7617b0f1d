"""KANs compared with MLPs of equal size and of equal accuracy, for docs/explanation/why-kan.md.

    make setup TORCH=1
    python benchmarks/equal_accuracy.py [--rounds 9] [--docs]

Equal size: `kanserve bench` times golden checkpoints and MLPs with the nearest number of parameters.

Equal accuracy: the script takes golden checkpoints that learned a known function. It measures the error of each KAN on
fresh rows: the root mean square error, divided by the standard deviation of the function. It trains MLPs with two
hidden layers (ReLU and tanh, L-BFGS in float64, two seeds), and searches the narrowest one that reaches that error.
Then it times both graphs interleaved, on one thread. The script needs a few minutes and prints Markdown on stdout.
`--docs` stores the results and writes the tables into the page.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from benchmarks import pages  # noqa: E402 - after the path is set
from benchmarks.matrix import contestants  # noqa: E402 - as above
from benchmarks.matrix.cells import Work  # noqa: E402 - as above
from kanserve.cli import inventory  # noqa: E402 - as above
from kanserve.contrib.bench import entrants, runner  # noqa: E402 - as above
from kanserve.contrib.bench.mlp_graph import Mlp  # noqa: E402 - as above

GOLDEN = ROOT / "tests" / "golden" / "checkpoints"
PAGE, WRITER = ROOT / "docs" / "explanation" / "why-kan.md", "benchmarks/equal_accuracy.py"
RESULTS = ROOT / "docs" / "benchmarks" / "results" / "equal_accuracy.json"
TRAINING, TESTING, STEPS = 1000, 10_000, 1000
SEEDS = (0, 1)
WIDTHS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": torch.relu, "tanh": torch.tanh}
BATCHES = (1, 64, 1024)
SIZED = ("pykan-hello-adapted", "pykan-feynman-I.6.20", "efficient-kan-digits", "fastkan-digits", "chebykan-bare-layer")
Rows = Any  # [N, inputs], float64
Function = Callable[[Rows], Any]


def hello(x: Rows) -> Any:
    """pykan's example."""
    return np.exp(np.sin(np.pi * x[:, 0]) + x[:, 1] ** 2)


def gauss(x: Rows) -> Any:
    """Feynman's I.6.20."""
    return np.exp(-(x[:, 0] ** 2) / (2 * x[:, 1] ** 2)) / (np.sqrt(2 * np.pi) * x[:, 1])


@dataclass(frozen=True, slots=True)
class Case:
    """A golden checkpoint `name` that learned `function` on a box."""

    name: str
    formula: str
    function: Function
    low: tuple[float, ...]
    high: tuple[float, ...]

    def rows(self, seed: int, count: int) -> Rows:
        """Uniform in the box, in float32 as a client sends them."""
        size = (count, len(self.low))
        return np.random.default_rng(seed).uniform(self.low, self.high, size).astype(np.float32).astype(np.float64)


SQUARE = ((-1.0, -1.0), (1.0, 1.0))
CASES = (
    Case("pykan-hello-symbolic", "exp(sin(pi x) + y^2)", hello, *SQUARE),
    Case("pykan-hello-adapted", "exp(sin(pi x) + y^2)", hello, *SQUARE),
    Case("pykan-feynman-I.6.20", "Feynman I.6.20", gauss, (-1.0, 0.5), (1.0, 2.0)),
)


def relative(outputs: Any, expected: Any) -> float:
    """Root mean square error, divided by the standard deviation of the function."""
    return float(np.sqrt(np.mean((outputs - expected) ** 2)) / np.std(expected))


class Network(torch.nn.Module):
    """An MLP."""

    def __init__(self, widths: Sequence[int], activation: str, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(n, m).double() for n, m in itertools.pairwise(widths))
        self.activation = activation

    def forward(self, x: Any) -> Any:
        """[B, n] -> [B]."""
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)[:, 0]


def learnt(case: Case, widths: Sequence[int], activation: str) -> tuple[float, Network]:
    """The best of the seeds, by its error on fresh rows."""
    x, fresh = case.rows(1, TRAINING), case.rows(3, TESTING)
    mean, spread = np.mean(y := case.function(x)), np.std(y)
    given, wanted = torch.tensor(x), torch.tensor((y - mean) / spread)
    best: tuple[float, Network] | None = None
    for seed in SEEDS:
        network = Network(widths, activation, seed)
        options = {"max_iter": STEPS, "history_size": 50, "line_search_fn": "strong_wolfe", "tolerance_change": 1e-12}
        optimizer = torch.optim.LBFGS(network.parameters(), **options)

        def loss(network: Network = network, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            value = torch.mean((network(given) - wanted) ** 2)
            value.backward()
            return value

        optimizer.step(loss)
        with torch.no_grad():
            error = relative(network(torch.tensor(fresh)).numpy() * spread + mean, case.function(fresh))
        if best is None or error < best[0]:
            best = error, network
    assert best is not None
    return best


def equal(case: Case, error: float, activation: str) -> tuple[float, Network] | None:
    """The narrowest MLP that reaches the error, by bisection over WIDTHS; None if the widest does not."""
    best, low, high = None, -1, len(WIDTHS)
    while high - low > 1:
        middle = len(WIDTHS) - 1 if high == len(WIDTHS) else (low + high) // 2
        found = learnt(case, (len(case.low), WIDTHS[middle], WIDTHS[middle], 1), activation)
        if found[0] <= error:
            best, high = found, middle
        elif best is None:
            return None
        else:
            low = middle
    return best


def graph(network: Network) -> bytes:
    """The MLP in float32."""
    weights = tuple(layer.weight.detach().numpy().T.astype(np.float32) for layer in network.layers)
    biases = tuple(layer.bias.detach().numpy().astype(np.float32) for layer in network.layers)
    model = onnx.load_from_string(Mlp(weights, biases, "FP32").graph())
    for node in model.graph.node:
        node.op_type = "Tanh" if node.op_type == "Relu" and network.activation == "tanh" else node.op_type
    return bytes(model.SerializeToString())


def widths_of(network: Network) -> list[int]:
    """Inputs, hidden layers, outputs."""
    return [network.layers[0].in_features, *(layer.out_features for layer in network.layers)]


def accuracy(case: Case, work: Work, rounds: int) -> list[list[str]]:
    """Cells of a line of the second table."""
    print(f"{case.name}: {case.formula}", file=sys.stderr)
    version = contestants.exported(work, GOLDEN / case.name / "model")
    bundle, manifest = inventory.version(version.parents[1], version.parent.name, version.name)
    entrant = entrants.kanserve_entrant(bundle, manifest, work.settings)
    answer, _ = entrant.threads(1)
    fresh = case.rows(3, TESTING)
    name = manifest.input.name
    error = relative(answer({name: fresh.astype(np.float32)})[0][:, 0].astype(np.float64), case.function(fresh))
    size = entrants.parameters(manifest.layers)
    widths = entrants.mlp_widths(len(case.low), 1, 3, size)
    same = min((learnt(case, widths, activation) for activation in ACTIVATIONS), key=lambda found: found[0])
    found = {activation: equal(case, error, activation) for activation in ACTIVATIONS}
    reached = [result for result in found.values() if result is not None]
    cells = [case.formula, case.name, str(list(manifest.widths)), str(size), f"{error:.1e}", f"{same[0]:.1e}"]
    if not reached:
        return [[*cells, f"none up to {WIDTHS[-1]} hidden nodes", "", "", *("" for _ in BATCHES)]]
    best, network = min(reached, key=lambda result: entrants.mlp_parameters(widths_of(result[1])))
    run = contestants.runner(graph(network), 1)
    times = []
    for rows in BATCHES:
        x = case.rows(5, rows).astype(np.float32)
        calls = {"kan": functools.partial(answer, {name: x}), "mlp": functools.partial(run, x)}
        seconds = runner.measure(calls, rounds, after=lambda: None)
        times.append(f"{runner.ratio(seconds['mlp'], seconds['kan']):.2f}")
    others = [activation for activation, result in found.items() if result is None]
    what = f"{widths_of(network)}, {network.activation}" + (f" ({others[0]}: none)" if others else "")
    return [[*cells, what, str(entrants.mlp_parameters(widths_of(network))), f"{best:.1e}", *times]]


def size(name: str, rounds: int) -> list[list[str]]:
    """Cells of the lines of the first table, from `kanserve bench`."""
    print(f"kanserve bench {name}", file=sys.stderr)
    folder = GOLDEN / name
    path = folder / "model" if (folder / "model_state").exists() else folder / "model.pt"
    words = ("--batch", ",".join(map(str, BATCHES)), "--threads", "1", "--rounds", str(rounds), "--json")
    command = (sys.executable, "-m", "kanserve", "bench", str(path), *words)
    done = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    about = {entrant["name"]: entrant["about"] for entrant in done["entrants"]}
    times = {(result["name"], result["rows"]): result["ratio"] for result in done["results"]}
    lines = []
    for other in (entrants.MLP, entrants.TORCH):
        if other in about:
            widths = re.match(r"\[[\d, ]+\]", about[other])
            what = f"MLP {widths[0]}" if widths else "the same layers in PyTorch"
            ratios = [f"{times[other, rows]:.2f}" for rows in BATCHES]
            lines.append([name, str(done["widths"]), f"{done['parameters']:,}", what, *ratios])
    return lines


def report(results: Mapping[str, Mapping[str, Any]], name: str, keys: Sequence[str], head: Sequence[str]) -> str:
    """A table of stored results, below the places where they were measured."""
    known = [results[f"{name}: {key}"] for key in keys if f"{name}: {key}" in results]
    places = "\n".join(dict.fromkeys(result["place"] for result in known))
    lines = [f"| {' | '.join(cells)} |" for result in known for cells in result["lines"]]
    return "\n".join([places, "", f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines]) + "\n"


def parts(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Name and text of each generated part of the page."""
    times = [f"{rows} row{'s' * (rows > 1)}" for rows in BATCHES]
    head = ("golden checkpoint", "widths", "parameters", "compared with", *times)
    yield "equal size", report(results, "size", SIZED, head)
    columns = ("function", "KAN", "widths", "parameters", "error", "error of an MLP with as many parameters")
    columns = (*columns, "smallest MLP with at most the KAN's error", "parameters", "error", *times)
    yield "equal accuracy", report(results, "accuracy", [key(case) for case in CASES], columns)


def key(case: Case) -> str:
    """Name of a case in the results."""
    return f"{case.name}, {case.formula}"


def main() -> None:
    """Measure, store, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--only", default="", help="cases whose name or formula has this text; others keep their results"
    )
    parser.add_argument("--docs", action="store_true", help="store the results and write the tables into the page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    place = (
        f"{runner.processor()}, {os.cpu_count()} cores, one thread. Python {platform.python_version()}, onnxruntime "
        f"{contestants.onnxruntime.__version__}, torch {torch.__version__}. {datetime.date.today().isoformat()}, "
        f"{args.rounds} rounds."
    )
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in SIZED:
        if args.only in name:
            results[f"size: {name}"] = {"place": place, "lines": size(name, args.rounds)}
    with tempfile.TemporaryDirectory() as folder:
        work = Work.begin(Path(folder), Path(folder))
        for case in CASES:
            if args.only in key(case):
                results[f"accuracy: {key(case)}"] = {"place": place, "lines": accuracy(case, work, args.rounds)}
    for name, text in parts(results):
        print(text)
        if args.docs:
            pages.put(PAGE, name, WRITER, text)
    if args.docs:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
