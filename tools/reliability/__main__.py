"""Command that runs the reliability tests, stores their results and writes the pages of docs/reliability.

    make reliability                                        all in full, for hours; what this commit has is kept
    python -m tools.reliability --rows 13,14 --short        some of them, in seconds
    python -m tools.reliability --rows 20 --minutes 480     the soak, for as long as you like
    python -m tools.reliability --table                     runs nothing, writes the pages from the stored results

When a run of a test over a transport ends, the command appends one line to docs/reliability/reliability.jsonl. The
pages show the last full run of each, otherwise the last short one. If a test fails, the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

from kanexport.shared.cli import tables
from tools.reliability import incident_table, record, table
from tools.reliability.base import TRANSPORTS, NotRun, Outcome, Row, Scale, rows
from tools.reliability.record import FAIL, NOT_RUN, PASS, RESULTS, Record


class TooLong(Exception):
    """A reliability test exceeds its time limit."""


def one(row: Row, scale: Scale, seed: int, transport: str) -> Record:
    """Run a test. Each outcome becomes a record, also an exception."""
    begun = time.monotonic()
    form = "full" if scale.full else "short"

    def ended(verdict: str, outcome: Outcome) -> Record:
        return record.stamped(
            row=row.number,
            transport=transport,
            form=form,
            verdict=verdict,
            seed=seed,
            seconds=round(time.monotonic() - begun, 1),
            count=outcome.count,
            figures=dict(outcome.figures),
            notes=outcome.notes,
        )

    if lacking := row.lacking(transport):
        return ended(NOT_RUN, Outcome({}, passed=False, notes=f"{', '.join(lacking)} is not installed"))
    try:
        with limited(60 * (row.minutes + scale.minutes)):
            outcome = row.run(scale, seed, transport)
    except NotRun as reason:
        return ended(NOT_RUN, Outcome({}, passed=False, notes=str(reason)))
    except Exception as error:  # a row that breaks has failed, and the others go on
        words = str(error).strip().partition("\n")[0][:300]
        return ended(FAIL, Outcome({}, passed=False, notes=f"it ended with {type(error).__name__}: {words}"))
    return ended(PASS if outcome.passed else FAIL, outcome)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooLong inside."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"it took longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def done(path: Path) -> set[tuple[str, str]]:
    """Tests and transports with a full run of this commit."""
    here = record.commit()
    seen = [one for one in record.load(path) if one.commit == here and not here.endswith("+")]
    return {(one.row, one.transport) for one in seen if one.form == "full" and one.verdict != NOT_RUN}


def arguments(known: Mapping[str, Row]) -> argparse.Namespace:
    """The parsed command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tools.reliability", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--full", dest="full", action="store_true", default=True, help="the full form of each test (default)"
    )
    form.add_argument("--short", dest="full", action="store_false", help="the short form of each test, seconds each")
    form.add_argument("--table", action="store_true", help="run nothing, write the pages")
    form.add_argument("--list", action="store_true", help="list the tests and run nothing")
    parser.add_argument("--rows", help="numbers of tests, such as 13,14 (default: all)", default=",".join(known))
    parser.add_argument("--transports", help="transports of network tests (asgi,grpcio)", default=",".join(TRANSPORTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0.0, help="duration of tests without a fixed end")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that results are appended to")
    parser.add_argument("--resume", action="store_true", help="skip tests that have a full result for this commit")
    requested = parser.parse_args()
    requested.rows, requested.transports = requested.rows.split(","), requested.transports.split(",")
    for what, supplied, there in (("row", requested.rows, known), ("transport", requested.transports, TRANSPORTS)):
        if unknown := [name for name in supplied if name not in there]:
            parser.error(f"no {what} {', '.join(unknown)}; there are {', '.join(there)}")
    return requested


def main() -> int:
    """1 if a test failed."""
    known = rows()
    requested = arguments(known)
    if requested.list:
        for row in known.values():
            print(f"{row.number:>8}  {row.title}: {row.method} Target: {row.goal}")
        return 0
    kept = done(requested.results) if requested.resume else set()
    todo = [
        (known[number], transport)
        for number in ([] if requested.table else requested.rows)
        for transport in known[number].ways
        if transport in ("", *requested.transports) and (number, transport) not in kept
    ]
    seen: list[Record] = []
    for at, (row, transport) in enumerate(todo):
        label = f"{at + 1} of {len(todo)}: {row.number} {row.title} {transport}".rstrip()
        with tables.bar(label) as tell:
            result = one(row, Scale(requested.full, tell, requested.minutes), requested.seed, transport)
        record.append(result, requested.results)
        seen.append(result)
        print(f"{result.verdict:8} {label} ({result.seconds:.0f} s): {result.figures or ''} {result.notes}", flush=True)
    records = record.load(requested.results)
    if requested.results == RESULTS:
        for (page, name), text in table.PARTS.items():
            table.write(text(known, records), page, name)
        table.write(incident_table.markdown(known, records), incident_table.PAGE, incident_table.NAME)
    else:
        print(table.results(known, records))
    return int(any(result.verdict == FAIL for result in seen))


if __name__ == "__main__":
    sys.exit(main())
