"""Search for rows whose output leaves its certified range, by gradient ascent on served graphs.

    python benchmarks/certificates.py [--budget 10s] [--only PART] [--docs]

Every golden checkpoint that `kanserve certify` supports, and random networks of every basis with one to three layers,
are certified and lowered: to the plain graph, the large-batch graph and the graph of kanserve-kernel. Each graph runs
random rows, and rows that move along the sign of its gradient. The script counts every row whose output is outside the
certified range. It counts directions, and how much wider a certified range is than the range that was found.

`--docs` writes `docs/benchmarks/results/certificates.json` and the tables of docs/guides/explain/certificates.md.
The exit code is 1 if a row was found.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import pages  # noqa: E402 - beside the package
from kanexport import pipeline  # noqa: E402 - as above
from kanexport.bundle import certification  # noqa: E402 - as above
from kanexport.certify import certificate  # noqa: E402 - as above
from kanexport.certify.certificate import Certificate  # noqa: E402 - as above
from kanexport.errors import ExportError  # noqa: E402 - as above
from kanexport.export_request import Request  # noqa: E402 - as above
from kanexport.ir.model import Kan  # noqa: E402 - as above
from kanexport.lowering import lower, spline_forms  # noqa: E402 - as above
from kanexport.shared import custom_ops  # noqa: E402 - as above
from kanexport.shared.sections import UNDECIDED  # noqa: E402 - as above
from kanexport.verify import graph_runner  # noqa: E402 - as above
from tests.support import golden_cases, sample_networks  # noqa: E402 - as above

PAGE, WRITER = ROOT / "docs" / "guides" / "explain" / "certificates.md", "benchmarks/certificates.py"
RESULTS = ROOT / "docs" / "benchmarks" / "results" / "certificates.json"
RANDOM, BEST, STEPS = 150_000, 40, 12
MANY = 8192  # rows of one run
CONSTANT = 1e-5  # of an output: a range so small is that of a constant
WIDE = 24  # inputs, from which on the ascent takes fewer steps
SHORT = 0.2  # of the budget: for a random network
Run = Callable[[np.ndarray], np.ndarray]
Box = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, slots=True)
class Result:
    """Search of one network. `rows`: of all graphs; `ratios`: the certified range over the range that was found, for
    each output; `pairs`, `edges`: how many directions there are, and how many were decided."""

    name: str
    group: str
    depth: int
    rows: int
    outside: int
    ratios: list[float]
    pairs: tuple[int, int]
    edges: tuple[int, int]


@dataclass(slots=True)
class Attack:
    """Search in one certified box. `points`: rows that ran; `outside`: those with an output outside its range."""

    run: Run
    certificate: Certificate
    points: int = 0
    outside: int = 0

    def outputs(self, rows: np.ndarray) -> np.ndarray:
        """The outputs [B, O] of rows in the box, counted."""
        c = self.certificate
        first = np.nextafter(c.low.astype(np.float32), np.float32(np.inf))
        last = np.nextafter(c.high.astype(np.float32), np.float32(-np.inf))
        values = self.run(np.clip(rows, first, last).astype(np.float32))
        self.points += len(rows)
        inside = (values >= c.y_low) & (values <= c.y_high)  # false for NaN
        self.outside += int((~inside).any(axis=1).sum())
        return values

    def search(self, rng: np.random.Generator) -> np.ndarray:
        """The range [2, O] that random rows and ascent find."""
        c = self.certificate
        rows = rng.uniform(c.low, c.high, (RANDOM, len(c.low)))
        values = self.outputs(rows)
        found = np.stack([values.min(axis=0), values.max(axis=0)]).astype(np.float64)
        for at in range(values.shape[1]):
            for side, (sign, best) in enumerate(((-1, c.at_low[at]), (1, c.at_high[at]))):
                starts = rows[np.argsort(-sign * values[:, at])[: BEST - 1]]
                more = rng.uniform(c.low, c.high, (BEST, len(c.low)))
                ends = np.concatenate([best[None], starts, more])
                found[side, at] = sign * max(sign * found[side, at], self.ascend(ends, at, sign))
        return found

    def ascend(self, rows: np.ndarray, at: int, sign: int) -> float:
        """The largest value of `sign` times an output along the ascent of many rows."""
        span = self.certificate.high - self.certificate.low
        step, best = span / 20, sign * self.outputs(rows)[:, at]
        for _ in range(STEPS if rows.shape[1] < WIDE else STEPS // 4):
            moves = 1e-3 * span * np.eye(rows.shape[1])
            near = np.concatenate([rows[:, None] + moves, rows[:, None] - moves], axis=1)
            values = self.outputs(near.reshape(-1, rows.shape[1]))[:, at].reshape(len(rows), 2, -1)
            candidates = rows + step * np.sign(sign * (values[:, 0] - values[:, 1]))
            reached = sign * self.outputs(candidates)[:, at]
            better = reached > best
            rows[better], best[better] = candidates[better], reached[better]
            if not better.any():
                step = step / 2
        return float(best.max())


def graphs(kan: Kan) -> dict[str, Run]:
    """The graphs of a network that run on this machine."""
    result: dict[str, Run] = {}
    for near in dict.fromkeys(((), tuple(spline_forms.uniform_layers(kan, "float32")))):
        lowered = lower.lower(kan, "float32", many=MANY, kernel=not near, near=near)
        models = {"plain": (lowered.model, ""), "many": (lowered.many and lowered.many.graph, "")}
        models["kernel"] = (lowered.kernel, custom_ops.library())
        for name, (model, library) in models.items():
            if model and library is not None:
                session = graph_runner.session(model, lowered.weights, library)
                result[f"{name} {near}"] = lambda x, s=session: np.concatenate(
                    [graph_runner.run(s, {"x": x[at : at + MANY]})["y"] for at in range(0, len(x), MANY)]
                )
    return result


def networks() -> Iterator[tuple[str, str, Kan, Box]]:
    """Name, group, network and box of every model of the benchmark. The box is the grid, or that of reference rows."""
    for case in golden_cases.cases():
        try:
            kan = pipeline.network(Request(path=case.path, repository=None, options=case.options))[0]
        except ExportError as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            continue
        if kan.edge_class == "A":
            yield case.name, "golden", kan, certificate.grid_box(kan)
        else:
            x = case.reference()["x"].astype(np.float64)
            yield case.name, "class B", kan, (x.min(axis=0), x.max(axis=0))
    for at, kind in enumerate(sample_networks.KINDS):
        for depth in sorted({1 + at % 3, 2, 3}):
            kan = sample_networks.network(kind, depth, seed=100 * depth + at)
            yield f"{kind}, {depth} layers", "random", kan, certificate.grid_box(kan)


def searched(name: str, group: str, kan: Kan, box: Box, budget: float) -> Result:
    """The search of one network. Raises ExportError for a network without a certificate."""
    found = certificate.certify(kan, *box, SHORT * budget if group == "random" else budget)
    rows = outside = 0
    ranges = []
    for seed, run in enumerate(graphs(kan).values()):
        attack = Attack(run, found)
        ranges.append(attack.search(np.random.default_rng(seed)))
        rows, outside = rows + attack.points, outside + attack.outside
    low, high = np.min([r[0] for r in ranges], axis=0), np.max([r[1] for r in ranges], axis=0)
    # The range of a constant output is that of the rounding.
    moves = high - low > CONSTANT * (1 + np.maximum(np.abs(low), np.abs(high)))
    ratios = ((found.y_high - found.y_low)[moves] / (high - low)[moves]).tolist()
    pairs = [word for row in found.direction for word in row]
    edges = [word for part in found.edge_directions for row in part.words for word in row]
    return Result(name, group, len(kan.layers), rows, outside, ratios, _decided(pairs), _decided(edges))


def _decided(words: Sequence[str]) -> tuple[int, int]:
    return len(words), sum(word != UNDECIDED for word in words)


def table(results: Sequence[Result]) -> str:
    """The soundness and the tightness of groups of networks, as tables."""
    lines = [
        "| networks | layers | count | rows | outside | certified / found, median | largest | directions decided |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in ("golden", "class B", "random"):
        for depth in sorted({r.depth for r in results if r.group == group}):
            lines.append(_row(group, str(depth), [r for r in results if r.group == group and r.depth == depth]))
    lines.append(_row("all", "1 to 3", results))
    widest = sorted(results, key=lambda r: -max(r.ratios, default=0))[:6]
    lines += ["", "| widest ranges | layers | certified / found |", "|---|---|---|"]
    lines += [f"| {r.name} | {r.depth} | {max(r.ratios):.2f} |" for r in widest]
    return "\n".join(lines) + "\n"


def _row(name: str, depth: str, results: Sequence[Result]) -> str:
    worst = [max(r.ratios) for r in results if r.ratios]
    rows, outside = sum(r.rows for r in results), sum(r.outside for r in results)
    known, decided = (sum(r.pairs[at] for r in results) for at in (0, 1))
    share = f"{decided:,} of {known:,} ({100 * decided / known:.0f} %)"
    return (
        f"| {name} | {depth} | {len(results)} | {rows:,} | {outside} | {np.median(worst):.3f} | {max(worst):.2f} "
        f"| {share} |"
    )


def text(document: dict[str, Any]) -> str:
    """The part of the page that a document of results makes."""
    results = [Result(**entry) for entry in document["results"]]
    edges = [sum(r.edges[at] for r in results if r.group == "golden") for at in (0, 1)]
    share = f"{edges[1]:,} of {edges[0]:,} edges of the golden networks of class A have a decided direction."
    return f"{table(results)}\n{share}\n\n`python {WRITER} --budget {document['budget']}`, {document['facts']}.\n"


def main() -> int:
    """Search, and print. Returns 1 if a row left its range."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget", default="10s", help="of each certificate of a checkpoint; a fifth of it for others")
    parser.add_argument("--only", default="", metavar="PART", help="networks whose name has this part")
    parser.add_argument("--docs", action="store_true", help="write the tables into the guide")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    for name, group, kan, box in networks():
        if args.only not in name:
            continue
        start = time.monotonic()
        try:
            result = searched(name, group, kan, box, certification.seconds(args.budget, "--budget"))
        except ExportError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        results.append(result)
        took = time.monotonic() - start
        worst = max(result.ratios, default=1)
        print(f"{name}: {result.rows:,} rows, {result.outside} outside, {worst:.3f}, {took:.1f} s", flush=True)
    when = datetime.datetime.now(datetime.UTC).date()
    facts = f"{os.cpu_count()} shared {platform.machine()} cores, onnxruntime {onnxruntime.__version__}, {when}"
    entries = [dataclasses.asdict(r) for r in results]
    document = {"budget": args.budget, "facts": facts, "results": entries}
    print(text(document))
    if args.docs:
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
        pages.put(PAGE, "search", WRITER, text(document))
    return int(any(result.outside for result in results))


if __name__ == "__main__":
    sys.exit(main())
