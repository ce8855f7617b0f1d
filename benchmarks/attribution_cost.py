"""Time of explanations, compared with SHAP values of the same models, rows and reference.

    make notebook                                # makes .venv-notebook, which has shap
    .venv-notebook/bin/python benchmarks/attribution_cost.py [--rounds 9]

The script exports golden checkpoints with 2 to 64 inputs and serves them. It explains 1 row and 64 rows against zeros,
with `Client` and one gRPC request. shap computes its values from `model.onnx`, in the same process and without a
server: with ExactExplainer up to 13 inputs, and with PermutationExplainer and one permutation. ONNX Runtime has one
thread. Times are per row, as medians over the rounds, which are interleaved. Differences are from the exact SHAP
values, and relative to the largest of them. Markdown on stdout.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import shap

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "service")]

from kanserve import Client  # noqa: E402 - as above

COMMAND = (sys.executable, "-m", "kanserve")
GOLDEN = ROOT / "tests" / "golden" / "checkpoints"
EXACT = 13  # inputs: 8192 coalitions
ROWS = (1, 64)
CASES = {
    "hello": ("pykan-hello-adapted/model", ()),
    "diabetes": ("pykan-diabetes/model", ()),
    "wine": ("efficient-kan-wine-update-grid/model.pt", ("--option", "base_activation=tanh")),
    "digits": ("efficient-kan-digits/model.pt", ()),
}


class Subject:
    """A model of the server, its graph in this process, and `count` rows."""

    def __init__(self, client: Client, models: Path, name: str, count: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(models / name / "1" / "model.onnx"), options)
        self._client, self.described = client, client.describe(name)
        self.inputs = self.described.input.shape[-1]
        self.rows = np.random.default_rng(0).uniform(-0.8, 0.8, (count, self.inputs)).astype(np.float32)
        self._masker = shap.maskers.Independent(np.zeros((1, self.inputs), np.float32))

    def predict(self, rows: Any) -> Any:
        """[N], the first output."""
        (y,) = self._session.run(["y"], {self.described.input.name: np.asarray(rows, np.float32)})
        return y[:, 0].astype(np.float64)

    def kanserve(self) -> Any:
        """[N, n], the contributions to the first output."""
        return self._client.explain(self.described, self.rows, reference="zeros", outputs=[0]).contributions[:, :, 0]

    def exact(self) -> Any:
        """[N, n], the exact SHAP values."""
        return shap.explainers.Exact(self.predict, self._masker)(self.rows, silent=True).values

    def permutation(self) -> Any:
        """[N, n], SHAP values of one permutation, forward and back."""
        explainer = shap.explainers.Permutation(self.predict, self._masker, seed=0)
        return explainer(self.rows, max_evals=2 * self.inputs + 1, silent=True).values


def line(subject: Subject, name: str, rounds: int) -> str:
    """A line of the table."""
    methods: dict[str, Callable[[], Any]] = {"kanserve": subject.kanserve, "permutation": subject.permutation}
    if subject.inputs <= EXACT:
        methods["exact"] = subject.exact
    values: dict[str, Any] = {}
    times = {key: list[float]() for key in methods}
    for _ in range(rounds + 1):  # the first is for warming up
        for key, method in methods.items():
            begun = time.perf_counter()
            values[key] = method()
            times[key].append((time.perf_counter() - begun) / len(subject.rows))
    shown = [f"{1e3 * statistics.median(times[key][1:]):.2g} ms" if key in times else "" for key in KEYS]
    exact = values.get("exact")
    apart = [
        "" if exact is None else f"{np.abs(values[key] - exact).max() / np.abs(exact).max():.1e}" for key in KEYS[:2]
    ]
    return f"| {' | '.join([name, str(subject.inputs), str(len(subject.rows)), *shown, *apart])} |"


KEYS = ("kanserve", "permutation", "exact")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for name, (checkpoint, flags) in CASES.items():
            command = [*COMMAND, "export", str(GOLDEN / checkpoint), "--repository", str(models), "--name", name]
            subprocess.run([*command, *flags], check=True, capture_output=True)
        ports = ("--grpc-port", "0", "--metrics-port", "0", "--threads", "1", "--statistics", "off", "--json")
        command = [*COMMAND, "serve", str(models), *ports]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                assert process.stdout is not None
                url = json.loads(process.stdout.readline())["grpc"]
                print("| model | inputs | rows | kanserve | permutation | exact | kanserve, off by | perm., off by |")
                print("|---|---|---|---|---|---|---|---|")
                with Client(url) as client:
                    for name, count in itertools.product(CASES, ROWS):
                        print(line(Subject(client, models, name, count), name, rounds), flush=True)
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
