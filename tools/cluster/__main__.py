"""Command that runs cluster scenarios on this machine and prints their table.

    python -m tools.cluster [SCENARIO...] [--json] [--events]
    python -m tools.cluster --wrong-charts

With `--wrong-charts`, the command runs scenarios with wrong charts, which must fail. The exit code is 1 if a check of a
scenario fails, or if a wrong chart passes. It is 3 if helm or Envoy cannot be downloaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tools.cluster import scenarios
from tools.cluster.experiment import Outcome
from tools.cluster.manifest import Deployment
from tools.cluster.scenarios import SCENARIOS
from tools.cluster.wrong import WRONG, Wrong
from tools.manifests import download

HEAD = ("scenario", "client", "calls", "lost", "wrong", "rejected", "late", "longest s")


def main() -> int:
    """Run the scenarios that the command line names, or all."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help=f"one of {', '.join(SCENARIOS)} (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--wrong-charts", action="store_true", help="run wrong charts, which must fail")
    parser.add_argument("--events", action="store_true", help="print the events of the pods")
    requested = parser.parse_args()
    if unknown := [name for name in requested.scenarios if name not in SCENARIOS]:
        parser.error(f"no scenario {', '.join(unknown)}, expected: {', '.join(SCENARIOS)}")
    wrong = requested.wrong_charts
    plan = WRONG if wrong else {name: Wrong(name, _unchanged) for name in requested.scenarios or SCENARIOS}
    outcomes: dict[str, Outcome] = {}
    for name, each in plan.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes[name] = asyncio.run(scenarios.run(each.scenario, Path(folder), each.change))
            except download.Unavailable as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 3
            except KeyboardInterrupt:
                return 130
        if requested.events:
            for seconds, text in outcomes[name].events:
                print(f"{name} {seconds:7.2f} s: {text}", file=sys.stderr)
    if requested.json:
        print(json.dumps({name: {**asdict(one), "passed": one.passed} for name, one in outcomes.items()}))
    else:
        print(table(outcomes))
    return int(any(outcome.passed is wrong for outcome in outcomes.values()))


def _unchanged(deployment: Deployment) -> Deployment:
    return deployment


def table(outcomes: Mapping[str, Outcome]) -> str:
    """The counts of all scenarios, and the checks that failed."""
    rows: list[tuple[str, ...]] = [HEAD]
    for name, outcome in outcomes.items():
        for client, count in outcome.counts.items():
            numbers = (count.calls, count.lost, count.wrong, count.rejected, count.late, count.longest)
            rows.append((name, client, *map(str, numbers)))
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for name, outcome in outcomes.items():
        lines.append(f"{name}: {'passed' if outcome.passed else 'FAILED'} in {outcome.seconds} s")
        lines += [f"  failed: {text}" for text, good in outcome.checks.items() if not good]
        lines += [f"  {note}" for note in outcome.notes]
        for client, count in outcome.counts.items():
            for text, number in count.errors.items():
                lines.append(
                    f"  {client}: {number} x {text}, from {count.moments[text][0]} s to {count.moments[text][-1]} s"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
