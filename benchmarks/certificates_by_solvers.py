"""Certified ranges of small networks of splines against solvers: SCIP on the exact problem, HiGHS on a bracket.

    python benchmarks/certificates_by_solvers.py --solvers VENV/bin/python [--limit 60] [--docs]

`VENV` is an environment with `pip install numpy pyscipopt highspy`, which kanserve does not need. Without it, the
script says so and ends.

* SCIP: a mixed-integer nonlinear problem. A source is in one cell between two knots, in which each edge is its cubic
  polynomial; SiLU is x / (1 + exp(-x)).
* HiGHS: a mixed-integer linear problem. Each edge is a polygon through points of its table. An output of that network
  is at most `room` away from the exact one: the largest distance of edges from their chords, passed on by slopes.

`--docs` writes the table into docs/guides/explain/certificates.md. The exit code is 1 if a solver that finished
contradicts a certificate, or has another optimum.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

WRITER = "benchmarks/certificates_by_solvers.py"
PAGE = ROOT / "docs" / "guides" / "explain" / "certificates.md"
NAMES = ("pykan-hello-pruned", "pykan-ellipj-float64", "pykan-0.0.5-hello", "pykan-feynman-I.6.20", "inkan-hello")
NEAR = 1e-4  # of the range: two optima that are the same
EVERY = 1  # points of a table for one corner of a polygon


def problem(name: str, budget: float) -> dict[str, Any]:
    """The layers of a golden network as numbers, with its certificate."""
    import numpy as np

    from kanexport import pipeline
    from kanexport.certify import certificate
    from kanexport.certify.propagation import Network
    from kanexport.export_request import Request
    from tests.support.golden_cases import cases

    case = next(case for case in cases() if case.name == name)
    kan = pipeline.network(Request(path=case.path, repository=None, options=case.options))[0]
    low, high = certificate.grid_box(kan)
    found = certificate.certify(kan, low, high, budget)
    layers, room = [], np.zeros(len(low))
    for stage in Network.of(kan, low, high).stages:
        edges, table = stage.table.edges, stage.table
        (spline,) = edges.splines
        places = np.unique(np.r_[0 : len(table.x) : EVERY, len(table.x) - 1])
        h = np.diff(table.x[places], axis=0)[:, :, None]
        bend = np.maximum.reduceat(table.bend, places[:-1], axis=0)
        steep = np.maximum(np.abs(table.low), np.abs(table.high)).max(axis=0)
        room = (bend * h**2).max(axis=0).sum(axis=0) + room @ steep
        layers.append(
            {
                "low": stage.low.tolist(),
                "high": stage.high.tolist(),
                "bias": edges.constant.tolist(),
                "silu": sum((part.weight for part in edges.smooth), 0 * edges.smooth[0].weight).tolist(),
                "cells": [_cells(spline, edges, i, stage.low[i], stage.high[i]) for i in range(edges.sources)],
                "points": table.x[places].T.tolist(),
                "values": table.value[places].transpose(1, 2, 0).tolist(),
            }
        )
    ends = {"low": [found.y_low[0], found.found_low[0]], "high": [found.y_high[0], found.found_high[0]]}
    return {"name": name, "layers": layers, "room": float(room[0]), **ends, "slack": float(found.slack[0])}


def _cells(spline: Any, edges: Any, source: int, low: float, high: float) -> list[dict[str, Any]]:
    """The cells of a source: start, width, and the powers [O, degree + 1] of each edge there."""
    import numpy as np

    knots = spline.basis.extended[source]
    ends = np.unique(np.clip(np.concatenate([[low], knots, [high]]), low, high))
    cells, count = [], spline.basis.degree + 1
    for start, width in zip(ends[:-1], np.diff(ends), strict=True):
        places = (np.arange(count) + 0.5) / count
        x = np.zeros((count, edges.sources))
        x[:, source] = start + width * places
        powers = np.linalg.solve(np.vander(width * places, increasing=True), spline.values(x, 0)[:, source])
        cells.append({"start": float(start), "width": float(width), "powers": powers.T.tolist()})
    return cells


def by_scip(task: dict[str, Any], sign: int, limit: float) -> dict[str, Any]:
    """The smallest (sign 1) or largest (sign -1) first output, and the time."""
    from pyscipopt import Model, exp, quicksum

    model = Model()
    model.hideOutput()
    model.setParam("limits/time", limit)
    model.setParam("limits/gap", 1e-6)
    model.setParam("numerics/feastol", 1e-9)
    nodes = [model.addVar(lb=a, ub=b) for a, b in zip(task["layers"][0]["low"], task["layers"][0]["high"], strict=True)]
    for at, layer in enumerate(task["layers"]):
        sums = [bias for bias in layer["bias"]]
        for i, (node, cells) in enumerate(zip(nodes, layer["cells"], strict=True)):
            inside = [model.addVar(vtype="B") for _ in cells]
            away = [model.addVar(lb=0, ub=cell["width"]) for cell in cells]
            model.addCons(quicksum(inside) == 1)
            model.addCons(node == quicksum(c["start"] * z + d for c, z, d in zip(cells, inside, away, strict=True)))
            for cell, z, d in zip(cells, inside, away, strict=True):
                model.addCons(d <= cell["width"] * z)
                powers = [z, d]
                for p in range(2, len(cell["powers"][0])):
                    power = model.addVar(lb=0, ub=cell["width"] ** p)
                    model.addCons(power == d**p)
                    powers.append(power)
                sums = [
                    total + quicksum(a * v for a, v in zip(row, powers, strict=True))
                    for total, row in zip(sums, cell["powers"], strict=True)
                ]
            if any(layer["silu"][i]):
                silu = model.addVar(lb=None, ub=None)
                model.addCons(silu * (1 + exp(-node)) == node)
                sums = [total + w * silu for total, w in zip(sums, layer["silu"][i], strict=True)]
        last = at == len(task["layers"]) - 1
        after = None if last else task["layers"][at + 1]
        ends = [(None, None)] * len(sums) if after is None else list(zip(after["low"], after["high"], strict=True))
        nodes = [model.addVar(lb=a, ub=b) for a, b in ends]
        for node, total in zip(nodes, sums, strict=True):
            model.addCons(node == total)
    model.setObjective(nodes[0], "minimize" if sign > 0 else "maximize")
    start = time.monotonic()
    model.optimize()
    value = model.getObjVal() if model.getNSols() else None
    done = model.getStatus() in ("optimal", "gaplimit")
    return {"value": value, "done": done, "seconds": time.monotonic() - start}


def by_highs(task: dict[str, Any], sign: int, limit: float) -> dict[str, Any]:
    """The smallest (sign 1) or largest (sign -1) first output of the network of polygons, and the time."""
    import highspy

    model = highspy.Highs()
    model.silent()
    model.setOptionValue("time_limit", limit)
    model.setOptionValue("mip_rel_gap", 1e-6)
    infinity = highspy.kHighsInf
    first = task["layers"][0]
    nodes = [model.addVariable(lb=a, ub=b) for a, b in zip(first["low"], first["high"], strict=True)]
    for layer in task["layers"]:
        sums = [model.addVariable(lb=-infinity, ub=infinity) for _ in layer["bias"]]
        totals: list[Any] = list(layer["bias"])
        for node, points, values in zip(nodes, layer["points"], layer["values"], strict=True):
            weights = [model.addVariable(lb=0, ub=1) for _ in points]
            between = [model.addBinary() for _ in points[1:]]
            model.addConstr(sum(weights) == 1)
            model.addConstr(sum(between) == 1)
            model.addConstr(sum(x * w for x, w in zip(points, weights, strict=True)) == node)
            for at, weight in enumerate(weights):
                model.addConstr(weight <= sum(between[max(at - 1, 0) : at + 1]))
            totals = [
                total + sum(v * w for v, w in zip(row, weights, strict=True))
                for total, row in zip(totals, values, strict=True)
            ]
        for node, total in zip(sums, totals, strict=True):
            model.addConstr(node == total)
        nodes = sums
    start = time.monotonic()
    (model.minimize if sign > 0 else model.maximize)(nodes[0])
    done = model.getModelStatus() == highspy.HighsModelStatus.kOptimal
    value = model.getInfo().objective_function_value
    return {"value": value, "done": done, "seconds": time.monotonic() - start}


def solve(limit: float) -> None:
    """Solve the problems of standard input, and print the results as JSON lines."""
    for task in json.load(sys.stdin):
        for end, sign in (("low", 1), ("high", -1)):
            answers = {"scip": by_scip(task, sign, limit), "highs": by_highs(task, sign, limit)}
            print(json.dumps({"name": task["name"], "end": end, **answers}), flush=True)


def rows(tasks: list[dict[str, Any]], answers: list[dict[str, Any]]) -> tuple[list[str], int]:
    """The rows of the table, and how many optima contradict a certificate."""
    by_name, wrong, lines = {task["name"]: task for task in tasks}, 0, []
    for answer in answers:
        task, end = by_name[answer["name"]], answer["end"]
        (certified, found), scip, highs = task[end], answer["scip"], answer["highs"]
        span = task["high"][1] - task["low"][1]
        sign = 1 if end == "low" else -1
        far = scip["done"] and abs(scip["value"] - found) > NEAR * max(span, 1)
        outside = scip["done"] and sign * (certified - scip["value"]) > 1e-6 * max(span, 1)
        apart = highs["done"] and abs(highs["value"] - found) > task["room"] + NEAR * max(span, 1)
        wrong += int(bool(far or outside or apart))
        lines.append(
            f"| {task['name']} | {end} | {certified:.5f} | {found:.5f} | {_value(scip)} | {_value(highs)} "
            f"± {task['room']:.1g} |"
        )
    return lines, wrong


def _value(answer: dict[str, Any]) -> str:
    return f"{answer['value']:.5f} ({answer['seconds']:.0f} s)" if answer["done"] else "none in time"


def main() -> int:
    """Compare, and print. Returns 1 if a solver contradicts a certificate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--solvers", type=Path, metavar="PYTHON", help="interpreter of an environment with the solvers")
    parser.add_argument("--solve", action="store_true", help="solve the problems of standard input (internal)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one optimum of one solver")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds of a certificate")
    parser.add_argument("--docs", action="store_true", help="write the table into the guide")
    args = parser.parse_args()
    if args.solve:
        solve(args.limit)
        return 0
    check = [str(args.solvers), "-c", "import numpy, pyscipopt, highspy"]
    if args.solvers is None or not args.solvers.exists() or subprocess.run(check, capture_output=True).returncode:
        print("no solvers: pass --solvers VENV/bin/python of an environment with numpy, pyscipopt and highspy")
        return 0
    tasks = [problem(name, args.budget) for name in NAMES]
    command = [str(args.solvers), __file__, "--solve", "--limit", str(args.limit)]
    done = subprocess.run(command, input=json.dumps(tasks), text=True, stdout=subprocess.PIPE, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    lines, wrong = rows(tasks, answers)
    head = ["| network | end | certified | found | SCIP, exact | HiGHS, polygons |", "|---|---|---|---|---|---|"]
    text = "\n".join([*head, *lines, "", f"`python {WRITER} --limit {args.limit:g}`.", ""])
    print(text, f"{wrong} optima contradict a certificate", sep="\n")
    if args.docs:
        from benchmarks import pages

        pages.put(PAGE, "solvers", WRITER, text)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
