"""Benchmark of packed and separate spline layouts, which justifies `kanexport/lowering/spline_forms.py`.

    python benchmarks/layouts.py [--seconds 0.4] [--json]

The script lowers one layer of cubic splines on uneven knots, as in a grid adapted to data. It lowers the layer for
single rows and for the measured batch sizes, and ignores the cost model. It runs both graphs interleaved in
onnxruntime, on the same rows, with one thread and with the server's thread settings. `gain` is the median packed time
divided by the median separate time. If the outputs are not bit-identical, the script stops with an error.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from kanexport.bases.activation import Activation
from kanexport.bases.bspline import BSpline
from kanexport.functions.elementwise import ACTIVATIONS
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.lowering import lower, spline_forms
from kanexport.shared.ort import onnxruntime

SOURCES = (16, 64, 128, 256, 512, 784)
INTERVALS = (5, 20, 50)
ROWS = (16, 32, 64, 128, 256, 512, 1024)
VALUES = (2_000, 200_000)  # of one function, between which it is of interest
DESTINATIONS = 64
LEAST = 8  # rounds


def network(sources: int, intervals: int) -> Kan:
    """One layer, base branch and splines, random weights."""
    rng = np.random.default_rng(0)
    gaps = rng.uniform(0.3, 1.0, size=(sources, intervals + 6))
    knots = np.cumsum(
        np.concatenate([np.full((sources, 1), -1.5), 3 * gaps / gaps.sum(1, keepdims=True)], axis=1), axis=1
    )
    shape = (sources, DESTINATIONS)
    terms = (
        BasisTerm(Activation(ACTIVATIONS["silu"]), rng.normal(size=(*shape, 1))),
        BasisTerm(BSpline(knots.astype(np.float32).astype(np.float64), 3), rng.normal(size=(*shape, intervals + 3))),
    )
    layer = Layer(terms, np.ones(shape), np.zeros(DESTINATIONS), np.zeros(shape, dtype=bool))
    return Kan(sources, (layer,))


def session(kan: Kan, *, apart: bool) -> Any:
    with mock.patch.multiple(spline_forms, unpacked=lambda *_: apart, narrow=lambda *_: False):
        lowered = lower.lower(kan, "float32")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    model, constants = (lowered.model, {}) if lowered.weights is None else lowered.weights.as_inputs(lowered.model)
    run = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: run.run(["y"], {"x": x, **constants})[0]


def measured(seconds: float) -> Iterator[dict[str, float]]:
    rng = np.random.default_rng(1)
    for intervals in INTERVALS:
        for sources in SOURCES:
            kan = network(sources, intervals)
            runs = [session(kan, apart=apart) for apart in (False, True)]
            for rows in ROWS:
                if not VALUES[0] <= rows * sources <= VALUES[1]:
                    continue
                x = rng.uniform(-1.8, 1.8, size=(rows, sources)).astype(np.float32)
                packed, apart = timed(runs, x, seconds)
                yield {
                    "sources": sources,
                    "functions": intervals + 3,
                    "rows": rows,
                    "packed_us": packed,
                    "apart_us": apart,
                    "gain": packed / apart,
                    "chosen": spline_forms.unpacked(kan.layers[0], rows),
                }


def same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    return first.tobytes() == second.tobytes()


def timed(
    runs: list[Any], x: np.ndarray, seconds: float, same: Callable[[np.ndarray, np.ndarray], bool] = same_bits
) -> list[float]:
    """Median microseconds of each, interleaved."""
    first, second = (run(x) for run in runs)
    if not same(first, second):
        raise SystemExit("the two forms do not give the same numbers")
    times: list[list[float]] = [[], []]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < LEAST:
        for run, own in zip(runs, times, strict=True):
            started = time.perf_counter()
            run(x)
            own.append(1e6 * (time.perf_counter() - started))
    return [statistics.median(own) for own in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each case (default: 0.4)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    if args.json:
        print(json.dumps(list(measured(args.seconds)), indent=1))
        return
    print("| sources | functions | rows | packed us | apart us | gain | chosen |\n|---|---|---|---|---|---|---|")
    for entry in measured(args.seconds):
        times = f"{entry['packed_us']:.0f} | {entry['apart_us']:.0f} | {entry['gain']:.2f}"
        chosen = "apart" if entry["chosen"] else "packed"
        print(f"| {entry['sources']} | {entry['functions']} | {entry['rows']} | {times} | {chosen} |", flush=True)


if __name__ == "__main__":
    main()
