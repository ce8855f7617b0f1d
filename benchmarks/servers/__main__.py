"""Command that measures the gRPC transports against no-op baselines, other Python servers and Triton.

    python benchmarks/servers [--rounds 5] [--seconds 2] [--only WORD ...] [--json FILE] [--docs]
    python benchmarks/servers --widths 64,64,10 --rows 8 --concurrency 1,8

The command exports networks of random weights, and every server serves the same folder. In each round, the clients
measure one server after the other. Without `--widths`, the command measures the matrix of production.py and the two
cases of targets.py, and prints the table of targets. The file contestants.py lists the other servers, and the
environment variables that add them. `--docs` writes the report into docs/benchmarks/serving.md and the charts into
docs/assets; `--json` writes all values to a file. The servers listen on loopback and stop with the command.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

import pages  # noqa: E402 - beside this folder

from servers import plot, production, report, rounds, targets  # noqa: E402 - as above
from servers.measured import Case, Measured, numbers  # noqa: E402 - as above

PAGE, ASSETS = ROOT / "docs" / "benchmarks" / "serving.md", ROOT / "docs" / "assets"
WRITER = "benchmarks/servers"


def main() -> None:
    """Measure and print."""
    args = _arguments()
    cases = (Case(args.widths, args.rows, args.concurrency),) if args.widths else targets.CASES
    load, measured = os.getloadavg()[0], {}
    if not args.widths:
        with tempfile.TemporaryDirectory() as place:
            measured[production.KEY] = production.measure(args.rounds, args.seconds, Path(place), args.only)
    for case in cases:
        measured[case.key] = _measured(case, args)
    count = f"{args.rounds} round{'s' * (args.rounds > 1)}"
    where = f"{count}, {datetime.date.today().isoformat()}, load {load:.1f} before the start"
    if production.KEY in measured:
        text = report.production(measured[production.KEY], where)
        print(text)
        if args.docs:
            pages.put(PAGE, f"servers {production.KEY}", WRITER, text)
    if text := report.targets(measured, where):
        print(text)
        if args.docs:
            pages.put(PAGE, "servers targets", WRITER, text)
    for case in cases:
        text = report.markdown(measured[case.key], f"{case.title}, {where}")
        print(text)
        if args.docs:
            _publish(case, measured[case.key], text)
    if args.json:
        args.json.write_text(json.dumps(_record(cases, measured, where), indent=1) + "\n")


def _measured(case: Case, args: argparse.Namespace) -> Measured:
    with tempfile.TemporaryDirectory() as place:
        measured = rounds.measure(case, args.rounds, args.seconds, Path(place), args.only)
        if case.rows == 1:
            rounds.beside_rivals(case, measured, args.rounds, args.seconds, Path(place))
    return measured


def _publish(case: Case, measured: Measured, text: str) -> None:
    key = f"servers {case.key}"
    picture = ASSETS / f"{key.replace(' ', '-')}.svg"
    title = f"Inferences per second, {list(case.widths)}, batch size {case.rows}"
    picture.write_text(plot.svg(measured, title))
    pages.put(PAGE, key, WRITER, f"{text}\n![{title}](../assets/{picture.name})\n")


def _record(cases: tuple[Case, ...], measured: Mapping[str, Measured], where: str) -> dict[str, object]:
    """All values of the run."""
    return {
        "machine": report.machine(),
        "run": where,
        "targets": targets.record(measured),
        "cases": [{"widths": case.widths, "rows": case.rows, **measured[case.key].record()} for case in cases],
        **{key: measured[key].record() for key in (production.KEY,) if key in measured},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="one window; perf_analyzer measures three")
    parser.add_argument("--widths", type=numbers, help="layer sizes of one case instead of the two cases")
    parser.add_argument("--concurrency", type=numbers, default=(1, 8, 32, 128), help="of this case")
    parser.add_argument("--rows", type=int, default=1, help="rows per request of this case")
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the names of the systems to measure")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--docs", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
