"""Symbolic forms of trained networks: `kanserve symbolify` compared with pykan's `auto_symbolic`, on ten equations.

    make notebook                                # makes .venv-notebook, which has pykan
    .venv-notebook/bin/python benchmarks/symbolify.py [--checkpoints FOLDER] [--only I.6.20a,II.38.3]

The script trains one pykan network per equation of Feynman's lectures, in the dimensionless form and with a shape that
can hold the equation, and saves it. Both programs then begin with that file and the same training rows:

* pykan: `auto_symbolic()`, then `fit` with 50 steps of LBFGS on the training targets, as its documentation does. With
  its defaults, and with a smaller weight of simplicity
* kanserve: `kanexport.edit.symbolify` with the training targets, and without them

A form counts as exact if its error on held-out rows is below 1e-6 of the spread of the targets. JSON on stdout, and a
table in Markdown on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kan import KAN

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from kanexport import pipeline  # noqa: E402 - as above
from kanexport.edit import symbolify  # noqa: E402 - as above
from kanexport.pipeline import Request  # noqa: E402 - as above
from kanexport.verify import float64_reference  # noqa: E402 - as above

Array = Any  # [N] or [N, n]
EXACT = 1e-6  # error relative to the spread of the targets
TOLERANCE = 1e-2  # relative to the spread of the outputs
SHOWN = 250  # rows that auto_symbolic fits; its time grows with them
WEIGHTS = (0.8,)  # of simplicity in auto_symbolic; the first one is its default
ROWS, HELD_OUT = 1000, 1000
ADD, TIMES = [1, 0], [0, 1]  # a node that adds, and one that multiplies


@dataclass(frozen=True)
class Equation:
    """Equation of Feynman's lectures: its number, its form, ranges of the inputs, and the hidden nodes of a network."""

    name: str
    text: str
    function: Callable[..., Array]
    ranges: tuple[tuple[float, float], ...]
    hidden: tuple[list[int], ...]

    @property
    def width(self) -> list[list[int]]:
        """The width of the network, in pykan's form."""
        return [[len(self.ranges), 0], *(list(level) for level in self.hidden), [1, 0]]

    def rows(self, count: int, seed: int) -> tuple[Array, Array]:
        """Random rows [count, n] and their targets [count, 1]."""
        low, high = np.array(self.ranges).T
        x = np.random.default_rng(seed).uniform(low, high, (count, len(low)))
        return x, self.function(*x.T)[:, None]


EQUATIONS = (
    Equation(
        "I.6.20a", "exp(-t^2/2)/sqrt(2 pi)", lambda t: np.exp(-(t**2) / 2) / math.sqrt(2 * math.pi), ((-3, 3),), (ADD,)
    ),
    Equation("I.12.11", "1 + a sin(t)", lambda a, t: 1 + a * np.sin(t), ((-1, 1), (-3, 3)), (TIMES,)),
    Equation("I.13.12", "a (1/b - 1)", lambda a, b: a * (1 / b - 1), ((-1, 1), (0.5, 2)), (TIMES,)),
    Equation("I.16.6", "(a + b)/(1 + a b)", lambda a, b: (a + b) / (1 + a * b), ((-0.9, 0.9), (-0.9, 0.9)), (ADD,)),
    Equation("I.26.2", "arcsin(n sin(t))", lambda n, t: np.arcsin(n * np.sin(t)), ((0, 0.95), (-1.5, 1.5)), (TIMES,)),
    Equation("I.27.6", "1/(1 + a b)", lambda a, b: 1 / (1 + a * b), ((0, 2), (0, 2)), (TIMES,)),
    Equation("I.40.1", "n exp(-a)", lambda n, a: n * np.exp(-a), ((0.5, 2), (0, 2)), (ADD,)),
    Equation("I.44.4", "n ln(a)", lambda n, a: n * np.log(a), ((0, 1), (0.2, 3)), (TIMES,)),
    Equation("II.38.3", "a/b", lambda a, b: a / b, ((0.5, 2), (0.5, 2)), (ADD,)),
    Equation(
        "III.10.19", "sqrt(1 + a^2 + b^2)", lambda a, b: np.sqrt(1 + a**2 + b**2), ((-1.5, 1.5), (-1.5, 1.5)), (ADD,)
    ),
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without pykan's progress bars and prints, in a folder for its log files."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                yield
        finally:
            os.chdir(before)


def dataset(equation: Equation) -> dict[str, torch.Tensor]:
    """Training rows and held-out rows, as pykan expects them."""
    (x, y), (held, targets) = equation.rows(ROWS, 1), equation.rows(HELD_OUT, 2)
    arrays = {"train_input": x, "train_label": y, "test_input": held, "test_label": targets}
    return {name: torch.tensor(array) for name, array in arrays.items()}


def train(equation: Equation, prefix: Path) -> None:
    """Train a network and save it: with sparsification, then without, then on a finer grid. Grids stay as they begin:
    after their updates, products did not learn."""
    rows = dataset(equation)
    with quiet():
        model = KAN(width=equation.width, grid=10, k=3, grid_range=[-3, 3], seed=1, auto_save=False)
        model.fit(rows, opt="LBFGS", steps=20, lamb=1e-3, update_grid=False)
        model.fit(rows, opt="LBFGS", steps=50, update_grid=False)
        model = model.refine(30)
        model.auto_save = False
        model.fit(rows, opt="LBFGS", steps=50, update_grid=False)
        model.saveckpt(str(prefix))


def error(equation: Equation, predict: Callable[[Array], Array]) -> float:
    """The error on held-out rows, relative to the spread of the targets."""
    x, y = equation.rows(HELD_OUT, 2)
    with np.errstate(all="ignore"):
        return float(np.sqrt(np.mean((predict(x) - y) ** 2)) / y.std())


def forms_of(model: Any) -> dict[str, str]:
    """The functions of a pykan network, by edge."""
    names = {}
    for layer, part in enumerate(model.symbolic_fun):
        for destination, row in enumerate(part.funs_name):
            for source, name in enumerate(row):
                names[f"{layer},{source},{destination}"] = name
    return names


def by_pykan(equation: Equation, prefix: Path, weight: float) -> dict[str, Any]:
    """The result of auto_symbolic and of a brief fit. `weight`: its weight of simplicity."""
    rows, start = dataset(equation), time.perf_counter()
    with quiet():
        model = KAN.loadckpt(str(prefix))
        model.auto_save = False
        model(rows["train_input"][:SHOWN])  # auto_symbolic fits the values of the last run
        model.auto_symbolic(weight_simple=weight)
        forms = forms_of(model)
        model.fit(rows, opt="LBFGS", steps=50, update_grid=False)
    found = error(equation, lambda x: model(torch.tensor(x)).detach().numpy())
    return {"weight_simple": weight, **_outcome(found), "forms": forms, "seconds": time.perf_counter() - start}


def by_kanserve(equation: Equation, prefix: Path, *, targets: bool) -> dict[str, Any]:
    """The result of `kanexport.edit.symbolify`."""
    kan, _ = pipeline.network(Request(path=prefix, repository=None))
    (x, y), start = equation.rows(ROWS, 1), time.perf_counter()
    result = symbolify.symbolify(kan, x, TOLERANCE, targets=y if targets else None)
    found = error(equation, lambda rows: float64_reference.evaluate(result.kan, rows).y)
    forms = {",".join(map(str, entry.at)): entry.form.candidate.name for entry in result.replaced}
    left = {",".join(map(str, at)): "spline" for at in result.left}
    return {**_outcome(found), "forms": forms | left, "seconds": time.perf_counter() - start}


def _outcome(found: float) -> dict[str, Any]:
    return {"error": found if math.isfinite(found) else None, "exact": found < EXACT}


def compare(equation: Equation, prefix: Path) -> dict[str, Any]:
    """The results of one network. Each program starts from the same file."""
    model = KAN.loadckpt(str(prefix))
    return {
        "equation": equation.name,
        "form": equation.text,
        "network_error": error(equation, lambda x: model(torch.tensor(x)).detach().numpy()),
        "pykan": [by_pykan(equation, prefix, weight) for weight in WEIGHTS],
        "kanserve": by_kanserve(equation, prefix, targets=True),
        "kanserve_without_targets": by_kanserve(equation, prefix, targets=False),
    }


def main() -> None:
    """Train, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=Path, help="folder for the networks; existing ones are not trained again")
    parser.add_argument("--only", default="", help="names of equations, separated by commas")
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.checkpoints or Path(temporary)).absolute()
        for equation in EQUATIONS:
            if args.only and equation.name not in args.only.split(","):
                continue
            prefix = folder / equation.name
            if not Path(f"{prefix}_state").exists():
                train(equation, prefix)
            results.append(compare(equation, prefix))
            print(_row(results[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"tolerance": TOLERANCE, "exact_below": EXACT, "equations": results}, indent=1))


def _row(result: dict[str, Any]) -> str:
    """One row of the table."""
    best = min(result["pykan"], key=lambda run: math.inf if run["error"] is None else run["error"])
    runs = (result["pykan"][0], best, result["kanserve"], result["kanserve_without_targets"])
    cells = ("undefined" if run["error"] is None else f"{run['error']:.1e}" for run in runs)
    marked = (f"{cell}, exact" if run["exact"] else cell for cell, run in zip(cells, runs, strict=True))
    return f"| {result['equation']} | `{result['form']}` | {result['network_error']:.1e} | {' | '.join(marked)} |"


if __name__ == "__main__":
    main()
