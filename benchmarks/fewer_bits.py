"""Quantized exports compared with the exact export: time, size, load time and error, interleaved in one process.

    python benchmarks/fewer_bits.py [--checkpoint FILE --rows FILE] [--adapted] [--seconds 2] [--json]

The default model is an efficient-kan of [784, 64, 10] with random weights, on rows within its grid. With --adapted its
knots are uneven, and each input has its own knots. The script exports each model as `kanserve export` does, and runs it
with onnxruntime on one thread. `gain` is the median time of the exact graph divided by that of the quantized graph.
`error` is the largest difference from the exact outputs, relative to the largest output. `changed` is the share of rows
for which another output is the largest. If an error exceeds the export's bound, the script stops with an error.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from kanexport.bundle import baseline
from kanexport.pipeline import Request, export
from kanexport.quantization.quantize import QuantizationOptions
from kanexport.shared.ort import onnxruntime

WIDTHS, INTERVALS, DEGREE = (784, 64, 10), 5, 3
ASKED = {
    "float32": QuantizationOptions(),
    "fp16-weights": QuantizationOptions("fp16-weights"),
    "int8": QuantizationOptions("int8"),
}
BATCHES = (1, 16, 64, 256)
LEAST = 9  # rounds


def random_checkpoint(folder: Path, *, adapted: bool) -> tuple[Path, np.ndarray[Any, Any]]:
    """A checkpoint with random weights, and rows within its grid."""
    rng, tensors = np.random.default_rng(0), {}
    for at, (sources, destinations) in enumerate(itertools.pairwise(WIDTHS)):
        knots = np.tile((np.arange(INTERVALS + 2 * DEGREE + 1) - DEGREE) * 2 / INTERVALS - 1, (sources, 1))
        if adapted:
            knots = np.sort(knots + rng.uniform(-0.1, 0.1, knots.shape), axis=1)
        size = 0.7 / np.sqrt(sources)
        tensors |= {
            f"layers.{at}.grid": knots,
            f"layers.{at}.base_weight": rng.normal(scale=size, size=(destinations, sources)),
            f"layers.{at}.spline_weight": rng.normal(scale=size, size=(destinations, sources, INTERVALS + DEGREE)),
            f"layers.{at}.spline_scaler": np.ones((destinations, sources)),
        }
    path = folder / "made.safetensors"
    save_file({name: values.astype(np.float32) for name, values in tensors.items()}, path)
    return path, rng.uniform(-1, 1, (max(BATCHES), WIDTHS[0])).astype(np.float32)


def session(model: Path) -> tuple[Any, float]:
    """A session as it is timed, and how long it took to load, in seconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    start = time.perf_counter()
    loaded = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return loaded, time.perf_counter() - start


def timed(sessions: dict[str, Any], x: np.ndarray[Any, Any], seconds: float) -> dict[str, float]:
    """Median seconds of one call, interleaved."""
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for model_session in (*sessions.values(), *sessions.values()):
        model_session.run(["y"], {"x": x})
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["float32"]) < LEAST:
        for name, model_session in sessions.items():
            start = time.perf_counter()
            model_session.run(["y"], {"x": x})
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds_each) for name, seconds_each in times.items()}


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    checkpoint, x = random_checkpoint(folder, adapted=args.adapted)
    if args.checkpoint:
        checkpoint, x = args.checkpoint, baseline.load(args.rows, "--rows").x.astype(np.float32)
    results = {
        name: export(Request(path=checkpoint, repository=folder, name=name.replace(" ", "-"), quantization=options))
        for name, options in ASKED.items()
    }
    sizes = {name: (result.directory / "model.onnx").stat().st_size for name, result in results.items()}
    loads = {
        name: [session(result.directory / "model.onnx")[1] for _ in range(3 * LEAST)]
        for name, result in results.items()
    }
    sessions = {name: session(result.directory / "model.onnx")[0] for name, result in results.items()}
    answers = {name: model_session.run(["y"], {"x": x})[0] for name, model_session in sessions.items()}
    exact, rows = answers["float32"], []
    for batch in BATCHES:
        times = timed(sessions, np.resize(x, (batch, x.shape[1])), args.seconds)
        for name in ASKED:
            error = float(np.abs(answers[name] - exact).max() / np.abs(exact).max())
            if error > (results[name].manifest.approximation.max_error or 0):
                sys.exit(f"{name} differs by {error:.1e}: no result")
            changed = int(np.count_nonzero(answers[name].argmax(1) != exact.argmax(1)))
            rows.append(
                {"model": name, "batch": batch, "us": round(times[name] * 1e6, 1)}
                | {"gain": round(times["float32"] / times[name], 2), "bytes": sizes[name]}
                | {"smaller": round(sizes["float32"] / sizes[name], 2)}
                | {"load_ms": round(statistics.median(loads[name]) * 1e3, 1)}
                | {"error": float(f"{error:.1e}"), "changed": changed, "rows": len(x)}
            )
    return rows


def main() -> None:
    """Measure and print Markdown, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--rows", type=Path, help="with --checkpoint: rows for it, .npy, .npz or .csv")
    parser.add_argument("--adapted", action="store_true")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number of rows")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if (args.checkpoint is None) != (args.rows is None):
        parser.error("--checkpoint and --rows go together")
    with tempfile.TemporaryDirectory() as folder:
        records = measure(args, Path(folder))
    if args.json:
        print(json.dumps(records, indent=1))
        return
    print("| " + " | ".join(records[0]) + " |\n|" + "---|" * len(records[0]))
    for row in records:
        print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
