"""Command that measures the benchmark matrix and writes its report.

    make bench                                          the whole matrix, into the pages of docs/benchmarks
    make bench ARGS="--only uniform,families --quick"   some of it, to the terminal

The command skips a cell that this commit already measured on this machine, so you can interrupt it and continue later.
If a prediction is wrong, the cell shows WRONG and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.matrix import cells, publish, report
from benchmarks.matrix.cells import Case, Work
from benchmarks.matrix.groups import GROUPS
from benchmarks.matrix.record import Kept, place
from kanexport.shared.cli import tables
from kanexport.shared.cli.console import Exit

ROOT = Path(__file__).parents[2]
CELLS = ROOT / ".bench" / "cells.jsonl"
Groups = Mapping[str, Callable[[bool], Iterable[Case]]]


def main(arguments: Sequence[str] | None = None, groups: Groups = GROUPS) -> int:
    """0, or 1 if an output was wrong."""
    parser = _arguments(groups)
    args = parser.parse_args(arguments)
    if args.quick and args.docs:
        parser.error("--quick measures one round: its times are not for the documents")
    if args.pages:
        publish.pages_only(publish.published(ROOT), ROOT)
        return 0
    warnings.simplefilter("ignore")  # of torch's exporter and compiler
    logging.getLogger("torch").setLevel(logging.ERROR)  # as above
    cases = [case for name in args.only for case in groups[name](args.quick)]
    kept = Kept(args.cells, place())
    try:
        with tempfile.TemporaryDirectory(prefix="kanserve-bench-") as folder:
            work = Work.begin(Path(folder), args.cells.parent, quick=args.quick, libraries=args.libraries)
            _measure(cases, kept, work)
    except KeyboardInterrupt:
        print(f"interrupted; {args.cells} has the measured cells, the same command continues", file=sys.stderr)
        return Exit.INTERRUPTED
    records = _kept(kept, {name: groups[name] for name in args.only}, quick=args.quick)
    if args.json:
        print(json.dumps(records))
    else:
        print(report.markdown(records))
    if args.docs:
        publish.docs(_kept(kept, groups), ROOT)
    wrong = [
        f"{record['group']} {record['case']}, {record['rows']} rows: {name}"
        for record in records
        for name in cells.bad(record)
    ]
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _kept(kept: Kept, groups: Groups, *, quick: bool = False) -> list[dict[str, Any]]:
    """The cells that there are, in the order of the groups; `quick`: those of one round, too."""
    keys = [case.key(rows) for make in groups.values() for case in make(quick) for rows in case.batches]
    return [record for key in keys if kept.has(key, quick=quick) and (record := kept.get(key)) is not None]


def _measure(cases: Sequence[Case], kept: Kept, work: Work) -> None:
    """Measure the cells that the records do not have yet."""
    todo = [
        (case, rows)
        for case in cases
        if (rows := [count for count in case.batches if not kept.has(case.key(count), quick=work.quick)])
    ]
    total, done = sum(len(rows) for _, rows in todo), 0
    with tables.bar("measuring", unit="cells") as tell:
        for case, rows in todo:
            tell(done, total, f"{case.group} {case.name}: exporting")

            def within(_: int, __: int, at: str = "", done: int = done) -> None:
                tell(done, total, at)

            for record in cells.measure(case, rows, work, within):
                kept.add(record)
                done += 1
                tell(done, total, f"{case.group} {case.name}")


def _arguments(groups: Groups) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in groups:
                raise argparse.ArgumentTypeError(f"there is no group {name}; there are: {', '.join(groups)}")
        return chosen

    parser.add_argument("--only", type=names, default=list(groups), metavar="GROUP,...", help=", ".join(groups))
    parser.add_argument("--quick", action="store_true", help="a few cells, one round: shows that it runs, not how fast")
    parser.add_argument(
        "--cells", type=Path, default=CELLS, metavar="FILE", help="file of measured cells (.bench/cells.jsonl)"
    )
    parser.add_argument("--libraries", type=Path, metavar="DIR", help="clones of families' libraries, as owner/name")
    parser.add_argument("--docs", action="store_true", help="write the pages of docs/benchmarks")
    parser.add_argument(
        "--pages", action="store_true", help="measure nothing, write the pages from the published cells"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


if __name__ == "__main__":
    sys.exit(main())
