"""Time of an explanation, compared with SHAP values of the same model, row and reference.

    make notebook                                # makes .venv-notebook, which has shap
    .venv-notebook/bin/python benchmarks/attribution_cost.py [--rounds 9]

The script exports golden checkpoints with 2 to 64 inputs, serves them, and explains one row against zeros, with
`Client` and one gRPC request. shap computes its values from `model.onnx`, in the same process and without a server:
with ExactExplainer up to 13 inputs, and with PermutationExplainer and one permutation. ONNX Runtime has one thread.
Times are medians over the rounds, which are interleaved. Markdown on stdout.
"""

from __future__ import annotations

import argparse
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
CASES = {
    "hello": ("pykan-hello-adapted/model", ()),
    "diabetes": ("pykan-diabetes/model", ()),
    "wine": ("efficient-kan-wine-update-grid/model.pt", ("--option", "base_activation=tanh")),
    "digits": ("efficient-kan-digits/model.pt", ()),
}


class Subject:
    """A model of the server, and its graph in this process."""

    def __init__(self, client: Client, models: Path, name: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(models / name / "1" / "model.onnx"), options)
        self._client, self.described = client, client.describe(name)
        self.inputs = self.described.input.shape[-1]
        self.row = np.random.default_rng(0).uniform(-0.8, 0.8, (1, self.inputs)).astype(np.float32)
        self.reference = np.zeros((1, self.inputs), np.float32)
        self.calls = 0  # rows that shap asked for

    def predict(self, rows: Any) -> Any:
        """[N], the first output."""
        self.calls += len(rows)
        (y,) = self._session.run(["y"], {self.described.input.name: np.asarray(rows, np.float32)})
        return y[:, 0].astype(np.float64)

    def ours(self) -> Any:
        """[n], the contributions to the first output."""
        found = self._client.explain(self.described, self.row, reference="zeros", outputs=[0])
        return found.contributions[0, :, 0]

    def exact(self) -> Any:
        """[n], the exact SHAP values."""
        return shap.explainers.Exact(self.predict, shap.maskers.Independent(self.reference))(self.row).values[0]

    def permutation(self) -> Any:
        """[n], SHAP values of one permutation, forward and back."""
        explainer = shap.explainers.Permutation(self.predict, shap.maskers.Independent(self.reference), seed=0)
        return explainer(self.row, max_evals=2 * self.inputs + 1, silent=True).values[0]


def line(subject: Subject, name: str, rounds: int) -> str:
    """A line of the table."""
    methods: dict[str, Callable[[], Any]] = {"ours": subject.ours, "permutation": subject.permutation}
    if subject.inputs <= EXACT:
        methods["exact"] = subject.exact
    values, calls, times = {}, {}, {key: list[float]() for key in methods}
    for _ in range(rounds + 1):  # the first is for warming up
        for key, method in methods.items():
            before, begun = subject.calls, time.perf_counter()
            values[key] = method()
            times[key].append(time.perf_counter() - begun)
            calls[key] = subject.calls - before
    cells = [name, str(subject.inputs), _time(times["ours"])]
    for key in ("permutation", "exact"):
        cells += [_time(times[key]), str(calls[key])] if key in methods else ["", f"{2**subject.inputs:.1e}"]
    if "exact" in methods:
        apart = np.abs(values["ours"] - values["exact"]).max() / np.abs(values["exact"]).max()
        cells.append(f"{apart:.1e}")
    else:
        cells.append("")
    return f"| {' | '.join(cells)} |"


def _time(seconds: list[float]) -> str:
    return f"{1e3 * statistics.median(seconds[1:]):.2g} ms"


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
                print("| model | inputs | kanserve | SHAP, 1 permutation | rows | SHAP, exact | rows | difference |")
                print("|---|---|---|---|---|---|---|---|")
                with Client(url) as client:
                    for name in CASES:
                        print(line(Subject(client, models, name), name, rounds), flush=True)
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
