"""Our graph against what torch itself exports, side by side in one process.

    make bench        or      python benchmarks/graph_vs_torch_export.py [--json]

A torch module of efficient-kan's form (B-splines by the Cox-de Boor recursion
and a SiLU branch) is exported with torch.onnx.export(dynamo=True); the same
weights go through kanexport. Both graphs then run in onnxruntime with one
thread, in turns, on the same rows. Times are medians in microseconds, and the
ratio is torch's over ours. Next to every time stands the largest error, relative,
against the float64 evaluation: a faster graph that is wrong is no result.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kanexport.files import checkpoint
from kanexport.form.ir import Kan
from kanexport.lowering import lower
from kanexport.options import Options
from kanexport.proof import evaluate
from kanexport.recognise import detect
from kanexport.shared.quiet_runtime import onnxruntime

WIDTHS = (784, 64, 10)
GRID, DEGREE = 5, 3
BATCHES = (1, 64, 1024)
ROUNDS = {1: 41, 64: 21, 1024: 7}
MIN_SECONDS = 0.02  # each round repeats the call until this has passed


class Layer(torch.nn.Module):
    """One layer with efficient-kan's parameters: n sources, m destinations."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        step = 2 / GRID
        knots = torch.arange(-DEGREE, GRID + DEGREE + 1) * step - 1
        self.register_buffer("grid", knots.expand(n, -1).contiguous())
        self.base_weight = torch.nn.Parameter(torch.randn(m, n) / n**0.5)
        self.spline_weight = torch.nn.Parameter(torch.randn(m, n, GRID + DEGREE) / n**0.5)
        self.spline_scaler = torch.nn.Parameter(torch.rand(m, n) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, n] -> [B, m]: silu(x) times the base weights, plus the splines."""
        t = self.grid
        u = x.unsqueeze(-1)
        basis = ((u >= t[:, :-1]) & (u < t[:, 1:])).to(x.dtype)  # [B, I, K]
        for p in range(1, DEGREE + 1):
            left = (u - t[:, : -p - 1]) / (t[:, p:-1] - t[:, : -p - 1]) * basis[..., :-1]
            right = (t[:, p + 1 :] - u) / (t[:, p + 1 :] - t[:, 1:-p]) * basis[..., 1:]
            basis = left + right
        weight = self.spline_weight * self.spline_scaler.unsqueeze(-1)
        spline = torch.nn.functional.linear(basis.flatten(1), weight.flatten(1))
        return torch.nn.functional.linear(torch.nn.functional.silu(x), self.base_weight) + spline


class Network(torch.nn.Module):
    """A stack of layers, with the state dict of an efficient-kan model."""

    def __init__(self) -> None:
        super().__init__()
        pairs = itertools.pairwise(WIDTHS)
        self.layers = torch.nn.ModuleList([Layer(n, m) for n, m in pairs])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, WIDTHS[0]] -> [B, WIDTHS[-1]]."""
        for layer in self.layers:
            x = layer(x)
        return x


def exported_by_torch(network: Network) -> bytes:
    """The ONNX model that torch makes, with a free batch axis."""
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network,
            (torch.zeros(2, WIDTHS[0]),),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
        path = Path(folder) / "model.onnx"
        program.save(str(path), external_data=False)
        return path.read_bytes()


def exported_by_us(network: Network) -> tuple[bytes, Kan]:
    """Our ONNX model of a saved state dict, and what was read from it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.save(network.state_dict(), path)
        loaded = checkpoint.load(path)
        reader, _ = detect.detect(loaded, None)
        kan = reader.read(loaded, Options({}))
    return lower.lower(kan, "float32").model, kan


def session(model: bytes) -> onnxruntime.InferenceSession:
    """One thread, and none that waits for work by spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def round_seconds(run: Any, feed: dict[str, Any]) -> float:
    """Seconds per call over one round."""
    calls, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < MIN_SECONDS or calls == 0:
        run(None, feed)
        calls += 1
    return passed / calls


def compare(ours: Any, theirs: Any, kan: Kan, rows: int) -> dict[str, float]:
    """Times and errors of both sessions on a batch of so many rows, by the names that --json prints."""
    x = np.random.default_rng(rows).uniform(-1, 1, size=(rows, WIDTHS[0])).astype(np.float32)
    exact = evaluate.evaluate(kan, x.astype(np.float64)).y
    result: dict[str, float] = {"rows": rows}
    feeds = {}
    for name, runner in (("ours", ours), ("torch", theirs)):
        feeds[name] = {runner.get_inputs()[0].name: x}
        y = runner.run(None, feeds[name])[0]
        result[f"{name}_max_rel_error"] = float(np.abs(y - exact).max() / np.abs(exact).max())
    seconds: dict[str, list[float]] = {"ours": [], "torch": []}
    for _ in range(ROUNDS[rows]):
        for name, runner in (("ours", ours), ("torch", theirs)):  # in turns
            seconds[name].append(round_seconds(runner.run, feeds[name]))
    for name, values in seconds.items():
        result[f"{name}_us"] = statistics.median(values) * 1e6
    result["ratio"] = result["torch_us"] / result["ours_us"]
    result["rounds"] = ROUNDS[rows]
    return result


def main() -> int:
    """Export twice, compare on every batch size, print."""
    parser = argparse.ArgumentParser(description="Our graph against torch.onnx.export, as ratios.")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = Network().eval()
    print("exporting with torch, which takes some seconds ...", file=sys.stderr)
    theirs = session(exported_by_torch(network))
    model, kan = exported_by_us(network)
    ours = session(model)
    results = [compare(ours, theirs, kan, rows) for rows in BATCHES]
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, {platform.machine()}"
    if args.json:
        print(json.dumps({"shape": WIDTHS, "grid": GRID, "threads": 1, "versions": versions, "results": results}))
        return 0
    print(f"{list(WIDTHS)}, G = {GRID}, k = {DEGREE}, one thread, medians in turns; {versions}")
    print(f"{'rows':>5} {'torch.onnx.export':>19} {'error':>9} {'kanexport':>13} {'error':>9} {'ratio':>7}")
    for r in results:
        print(
            f"{r['rows']:>5} {r['torch_us']:>16.0f} us {r['torch_max_rel_error']:>9.1e} "
            f"{r['ours_us']:>10.0f} us {r['ours_max_rel_error']:>9.1e} {r['ratio']:>6.1f}x"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
