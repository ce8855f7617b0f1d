"""Benchmark of the small-output form, which computes layers of few outputs as columns of one matrix product.

The table justifies the constants of `kanexport/lowering/spline_forms.py`.

    python benchmarks/narrow.py [--seconds 0.3] [--json]

The script lowers one layer of cubic splines and a base branch in both forms, on uniform and on uneven knots. It ignores
the cost model. It runs both graphs interleaved in onnxruntime, on the same rows, with one thread and with the
server's thread settings. `gain` is the median time of the other form divided by that of the column form. If the outputs
differ by more than 1e-5 of the largest, the script stops with an error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from layouts import network, timed

from kanexport.bases.bspline import BSpline
from kanexport.ir.model import BasisTerm, Kan, Layer
from kanexport.lowering import lower, spline_forms
from kanexport.shared.ort import onnxruntime

SHAPES = ((2, 5), (4, 8), (8, 1), (16, 16), (32, 32), (64, 10), (64, 32), (64, 64), (256, 10), (784, 10))
INTERVALS = (5, 20, 50)
ROWS = (1, 16, 64, 256)
NUMBERS = 400_000  # of a basis, beyond which both forms are out of the cache


def layer(shape: tuple[int, int], intervals: int, *, uniform: bool) -> Kan:
    """Random weights for `shape` [I, O], which `layouts.network` has for other destinations."""
    sources, destinations = shape
    rng = np.random.default_rng(0)
    base, splines = network(sources, intervals).layers[0].terms
    basis = splines.basis
    if uniform:
        basis = BSpline(
            np.tile(np.linspace(-1.5, 1.5, intervals + 7).astype(np.float32), (sources, 1)).astype(float), 3
        )
    terms = (
        BasisTerm(base.basis, rng.normal(size=(*shape, 1))),
        BasisTerm(basis, rng.normal(size=(*shape, intervals + 3))),
    )
    return Kan(sources, (Layer(terms, np.ones(shape), np.zeros(destinations), np.zeros(shape, dtype=bool)),))


def session(kan: Kan, *, columns: bool) -> Any:
    with mock.patch.object(spline_forms, "narrow", return_value=columns):
        model = lower.lower(kan, "float32").model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    run = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: run.run(["y"], {"x": x})[0]


def close(first: np.ndarray, second: np.ndarray) -> bool:
    return float(np.abs(first - second).max()) <= 1e-5 * float(np.abs(second).max())


def measured(seconds: float) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        for intervals in INTERVALS:
            for uniform in (True, False):
                kan = layer(shape, intervals, uniform=uniform)
                runs = [session(kan, columns=columns) for columns in (False, True)]
                for rows in ROWS:
                    if rows * shape[0] * intervals > NUMBERS:
                        continue
                    x = rng.uniform(-1.8, 1.8, size=(rows, shape[0])).astype(np.float32)
                    other, columns = timed(runs, x, seconds, close)
                    yield {
                        "shape": shape,
                        "cells": intervals,
                        "uniform": uniform,
                        "rows": rows,
                        "other_us": other,
                        "columns_us": columns,
                        "gain": other / columns,
                        "chosen": spline_forms.narrow(kan.layers[0]),
                    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each case (default: 0.3)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    if args.json:
        print(json.dumps(list(measured(args.seconds)), indent=1))
        return
    print("| layer | cells | knots | rows | other us | columns us | gain | chosen |\n|---|---|---|---|---|---|---|---|")
    for entry in measured(args.seconds):
        times = f"{entry['other_us']:.1f} | {entry['columns_us']:.1f} | {entry['gain']:.2f}"
        knots, chosen = "uniform" if entry["uniform"] else "uneven", "columns" if entry["chosen"] else "other"
        print(
            f"| {list(entry['shape'])} | {entry['cells']} | {knots} | {entry['rows']} | {times} | {chosen} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
