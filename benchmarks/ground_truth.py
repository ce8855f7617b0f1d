"""Explanations of trained networks compared with ground truth: known contributions of a function, and Shapley values.

    make notebook                                # makes .venv-notebook: pykan and shap beside what `make setup` has
    .venv-notebook/bin/python benchmarks/ground_truth.py

The script trains networks with pykan (half a minute), exports and serves them, and requests explanations with one
reference row. The first table compares contributions with those of the function. For a sum of functions of one input,
the contributions are known. For Feynman's I.6.20, they follow in closed form from the formula's order of operations. If
only one input differs from the reference, it has the whole difference. The second table has the Shapley values of the
same models, from the definition over all coalitions, which shap's ExactExplainer confirms. Markdown on stdout.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shap
import torch
from kan import KAN

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from kanserve import Client  # noqa: E402 - as above

Rows = Any  # [N, inputs]
Function = Callable[[Rows], Any]
COMMAND = (sys.executable, "-m", "kanserve")
GOLDEN = ROOT / "tests" / "golden" / "checkpoints" / "pykan-feynman-I.6.20" / "model"
ASKED, TRAINED = 1000, 2000  # rows


def parts(x: Rows) -> Any:
    """[N, 4]: four functions of one input each."""
    return np.stack([np.sin(np.pi * x[:, 0]), x[:, 1] ** 2, np.exp(x[:, 2]) / 2, np.tanh(2 * x[:, 3])], axis=1)


def total(x: Rows) -> Any:
    return parts(x).sum(axis=1)


def together(x: Rows) -> Any:
    """Inputs that work together, two and two."""
    return x[:, 0] * x[:, 1] + np.sin(np.pi * (x[:, 2] + x[:, 3]) / 2)


def gauss(x: Rows) -> Any:
    """Feynman's I.6.20, of theta and sigma."""
    return np.exp(-(x[:, 0] ** 2) / (2 * x[:, 1] ** 2)) / (np.sqrt(2 * np.pi) * x[:, 1])


@dataclass(frozen=True, slots=True)
class Case:
    """A network for `function` on a box from `low` to `high`; the reference is its middle."""

    name: str
    function: Function
    widths: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    steps: int = 0  # of training; 0: a checkpoint of the repository
    grid: int = 8

    @property
    def reference(self) -> Rows:
        return np.float32([np.add(self.low, self.high) / 2])

    def rows(self, seed: int, count: int) -> Rows:
        return np.random.default_rng(seed).uniform(self.low, self.high, (count, len(self.low))).astype(np.float32)


UNIT = ((-1.0,) * 4, (1.0,) * 4)
SUM = Case("sum", total, (4, 1), *UNIT, steps=20)
DEEP = Case("deep-sum", total, (4, 4, 1), *UNIT, steps=60)
TOGETHER = Case("together", together, (4, 5, 1), *UNIT, steps=60)
FORMULA = Case("formula", gauss, (2, 2, 1, 1), (1.0, 1.0), (3.0, 3.0), steps=60)  # the ranges of the Feynman data set
LEARNT = Case("learnt", gauss, (2, 3, 1), (-1.0, 0.5), (1.0, 2.0))
CASES = (SUM, DEEP, TOGETHER, FORMULA, LEARNT)


def trained(case: Case, folder: Path) -> Path:
    """pykan's checkpoint."""
    print(f"training {case.name}", file=sys.stderr)
    torch.manual_seed(0)
    data = {}
    for what, rows in (("train", case.rows(1, TRAINED)), ("test", case.rows(2, ASKED))):
        data[f"{what}_input"] = torch.tensor(rows)
        data[f"{what}_label"] = torch.tensor(case.function(rows.astype(np.float64))[:, None], dtype=torch.float32)
    model = KAN(width=list(case.widths), grid=case.grid, k=3, seed=1, auto_save=False)
    if case is FORMULA:
        as_the_formula(model)
    model.fit(data, opt="LBFGS", steps=case.steps, update_grid=case is not FORMULA)
    model.saveckpt(str(folder / case.name))
    return folder / case.name


def as_the_formula(model: KAN) -> None:
    """Edges as I.6.20 has its operations, exp(-exp(n) / 2 + m) / sqrt(2 pi) of n = 2 log theta - 2 log sigma and m =
    -log sigma; how each is scaled and shifted is learnt, from a start that is a third off."""
    start = {
        (0, 0, 0): ("log", 1.3),
        (0, 1, 0): ("log", -1.3),
        (0, 1, 1): ("log", -0.7),
        (1, 0, 0): ("exp", -0.3),
        (1, 1, 0): ("x", 0.7),
        (2, 0, 0): ("exp", 0.3),
    }
    for (layer, source, destination), (function, scale) in start.items():
        model.fix_symbolic(layer, source, destination, function, fit_params_bool=False, log_history=False)
        model.symbolic_fun[layer].affine.data[destination, source] = torch.tensor([1.0, 0.1, scale, 0.0])
    model.fix_symbolic(0, 0, 1, "0", fit_params_bool=False, log_history=False)


def by_the_formula(x: Rows, r: Rows) -> Any:
    """[N, 2]: I.6.20's contributions in closed form, difference by difference, in the order of its operations."""
    logs, at = np.log(x), np.log(r)
    n, n_r = 2 * (logs[:, 0] - logs[:, 1]), 2 * (at[:, 0] - at[:, 1])
    u, u_r = -np.exp(n) / 2 - logs[:, 1], -np.exp(n_r) / 2 - at[:, 1]
    outer = (gauss(x) - gauss(r)) / (u - u_r)
    inner = -(np.exp(n) - np.exp(n_r)) / 2 / (n - n_r)
    theta, sigma = (logs - at).T
    return np.stack([outer * inner * 2 * theta, outer * (inner * -2 * sigma - sigma)], axis=1)


def shapley(function: Function, rows: Rows, reference: Rows) -> Any:
    """[N, n]: by the definition, over all coalitions of inputs; who is not in one is as in the reference."""
    count = rows.shape[1]
    coalitions = list(itertools.product((False, True), repeat=count))
    worth = {some: function(np.where(some, rows, reference)) for some in coalitions}
    values = np.zeros(rows.shape)
    for some, at in itertools.product(coalitions, range(count)):
        if some[at]:
            without = (*some[:at], False, *some[at + 1 :])
            share = math.factorial(sum(without)) * math.factorial(count - sum(some)) / math.factorial(count)
            values[:, at] += share * (worth[some] - worth[without])
    return values


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of all cases, exported."""
    for case in CASES:
        checkpoint = trained(case, folder) if case.steps else GOLDEN
        command = [*COMMAND, "export", str(checkpoint), "--repository", str(folder / "models"), "--name", case.name]
        subprocess.run(command, check=True, capture_output=True)
    command = [*COMMAND, "serve", str(folder / "models"), "--grpc-port", "0", "--metrics-port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["grpc"]
        finally:
            process.terminate()


class Asked:
    """A served case, with its client and rows."""

    def __init__(self, client: Client, case: Case) -> None:
        self.client, self.case = client, case
        self.described, self.model = client.describe(case.name), client.model(case.name)

    def predict(self, rows: Rows) -> Any:
        """[N], float64."""
        return self.client.infer(self.model, rows.astype(np.float32)).outputs["y"][:, 0].astype(np.float64)

    def contributions(self, rows: Rows) -> Any:
        """[N, n]."""
        return self.client.explain(self.described, rows, reference=self.case.reference).contributions[:, :, 0]

    def misses(self, rows: Rows) -> float:
        """By how much the model misses the function at most, over rows and the reference."""
        rows = np.concatenate([rows, self.case.reference])
        return float(np.abs(self.predict(rows) - self.case.function(rows.astype(np.float64))).max())


def known(subject: Asked, what: str, rows: Rows, expected: Any) -> str:
    """A line of the first table."""
    off = np.abs(subject.contributions(rows) - expected)
    spread = float(np.abs(expected).max())
    widths = ", ".join(map(str, subject.case.widths))
    return f"| {what} | [{widths}] | {spread:.2g} | {subject.misses(rows):.1e} | {off.max():.1e} |"


def compared(subject: Asked, what: str) -> str:
    """A line of the second table."""
    rows, reference = subject.case.rows(4, ASKED), subject.case.reference
    ours, exact = subject.contributions(rows), shapley(subject.predict, rows, reference)
    explainer = shap.explainers.Exact(subject.predict, shap.maskers.Independent(reference))
    confirmed = np.abs(explainer(rows[:50]).values - exact[:50]).max()
    apart = np.sqrt(np.mean((ours - exact) ** 2) / np.mean(exact**2))
    same = np.mean(np.abs(ours).argmax(axis=1) == np.abs(exact).argmax(axis=1))
    return f"| {what} | {apart:.1e} | {np.abs(ours - exact).max():.1e} | {same:.0%} | {confirmed:.0e} |"


def one_row(subject: Asked) -> Iterator[str]:
    """A row of the case, input by input."""
    rows = np.float32([[0.8, 0.7, 0.6, -0.2]])
    ours, exact = subject.contributions(rows)[0], shapley(subject.predict, rows, subject.case.reference)[0]
    true = shapley(subject.case.function, rows.astype(np.float64), subject.case.reference)[0]
    yield "| input | value | ours | SHAP's, exact | of the function itself |"
    yield "|---|---|---|---|---|"
    for at, value in enumerate(rows[0]):
        yield f"| x{at} | {value:g} | {ours[at]:+.4f} | {exact[at]:+.4f} | {true[at]:+.4f} |"
    base, answer = subject.predict(subject.case.reference)[0], subject.predict(rows)[0]
    sums = " | ".join(f"{values.sum():+.4f}" for values in (ours, exact, true))
    yield f"| all, from {base:.4f} to {answer:.4f} | | {sums} |"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url, Client(url) as client:
        subjects = {case.name: Asked(client, case) for case in CASES}
        print("| known of | network | largest contribution | model misses function by | contributions by |")
        print("|---|---|---|---|---|")
        for case in (SUM, DEEP):
            rows = case.rows(3, ASKED)
            expected = parts(rows.astype(np.float64)) - parts(case.reference.astype(np.float64))
            print(known(subjects[case.name], "a sum of four functions", rows, expected))
        rows = FORMULA.rows(3, ASKED)
        expected = by_the_formula(rows.astype(np.float64), FORMULA.reference.astype(np.float64))
        print(known(subjects["formula"], "I.6.20, a network of its form", rows, expected))
        for at, input_ in enumerate(("theta", "sigma")):
            rows = np.tile(LEARNT.reference, (ASKED, 1))
            rows[:, at] = LEARNT.rows(3, ASKED)[:, at]
            expected = np.zeros(rows.shape)
            expected[:, at] = gauss(rows.astype(np.float64)) - gauss(LEARNT.reference.astype(np.float64))
            print(known(subjects["learnt"], f"I.6.20, {input_} alone is another", rows, expected))
        print("\n| ours beside SHAP's | root mean square apart | at most | same strongest input | shap agrees to |")
        print("|---|---|---|---|---|")
        for case, what in (
            (SUM, "a sum, [4, 1]"),
            (DEEP, "a sum, [4, 4, 1]"),
            (TOGETHER, "inputs that work together, [4, 5, 1]"),
            (LEARNT, "I.6.20, [2, 3, 1]"),
        ):
            print(compared(subjects[case.name], what))
        print()
        print(*one_row(subjects["together"]), sep="\n")


if __name__ == "__main__":
    main()
