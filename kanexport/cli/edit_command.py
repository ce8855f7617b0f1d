"""Command `kanserve edit`: changes single edges of an exported network, and writes the result as a new version.

Results go to stdout, progress and errors to stderr; `--json` prints one document.
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kanexport import republish
from kanexport.bundle import baseline
from kanexport.bundle.certification import seconds
from kanexport.bundle.publish import Result
from kanexport.cli import arguments
from kanexport.edit import apply as edits
from kanexport.edit import operations
from kanexport.edit.difference import Difference
from kanexport.edit.operations import EdgeEdit
from kanexport.errors import OptionError
from kanexport.republish import EditResult
from kanexport.shared.cli import tables
from kanexport.shared.cli.console import EXIT_CODES, Exit, print_json, say
from kanexport.shared.cli.tables import Table
from kanexport.shared.naming import Names

Page = Callable[[dict[str, Any], Names], None]  # takes the document of `--json`, and the names of the model

EDGE = "--edge"
VALUE = re.compile(r"-[^-h].*|-h.+")  # an argument that starts with a minus, such as -sin(x) or -1:2
EXAMPLES = """examples:
  kanserve edit models/hello --edge 0:1:2 --to "1.2*sin(x)"       # layer 0, source 1, destination 2
  kanserve edit models/hello --edge 0:0:0 --monotone up --edge 1:3:0 --clamp -1:2
  kanserve edit models/hello/1 --edge 0:0:1 --shift 0.1 --rows examples/hello.csv --author ada
  kanserve edit models/hello --edge 0:0:0 --zero --dry-run        # report only
"""


class _Operation(argparse.Action):
    """Collects edges and their operations in the order of the command line."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        entries = list(namespace.edits)
        if option == EDGE:
            entries.append((values, None, None))
        elif not entries or entries[-1][1] is not None:
            raise OptionError(
                f"{option} has no edge", code="edge-missing", hint=f"write {EDGE} L:S:D before each operation"
            )
        else:
            entries[-1] = (entries[-1][0], self.dest, True if self.nargs == 0 else values)
        namespace.edits = entries


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `edit` to a parser."""
    parser.description = (
        "Change single edges of an exported KAN, and write the result as a new version. The graphs are verified "
        "against the edited network. A server never serves the version by default: shadow it, then promote it."
    )
    parser.epilog = f"{EXAMPLES}\n{EXIT_CODES}"
    parser._negative_number_matcher = VALUE
    parser.set_defaults(edits=())
    add = parser.add_argument
    add("path", type=Path, metavar="MODEL", help="folder of a model or of one of its versions, such as models/hello")
    add("--version", type=int, metavar="N", help="version to edit, if MODEL has several (default: the highest)")
    _edge_options(parser)
    arguments.new_version_options(parser)
    add(
        republish.ROWS,
        type=Path,
        metavar="FILE",
        help="rows of your data as .npz, .npy or .csv, on which both versions are compared; they become the baseline "
        "of the result (default: rows from the input histograms of the baseline, or from the training grid)",
    )
    add(
        "--budget",
        default=f"{republish.BUDGET:g}s",
        metavar="TIME",
        help="time for the certificate of each version; 0 makes none (default: 2s)",
    )
    add("--dry-run", action="store_true", help="edit, verify and report, but write nothing")
    add("--json", action="store_true", help="print one JSON document")


def _edge_options(parser: argparse.ArgumentParser) -> None:
    """Arguments for edges and their operations."""
    add = parser.add_argument_group("edges and operations, in this order for each edge").add_argument

    def operation(name: str, metavar: str | None, text: str) -> None:
        shown: dict[str, Any] = {"nargs": 0} if metavar is None else {"metavar": metavar}
        add(f"--{name}", dest=name, action=_Operation, default=argparse.SUPPRESS, help=text, **shown)

    add(
        EDGE,
        dest="edge",
        action=_Operation,
        default=argparse.SUPPRESS,
        metavar="L:S:D",
        help="edge of layer L from source S to destination D, which count from 0; one operation follows it",
    )
    operation(operations.TO, "EXPR", 'replace the curve by an expression of x, such as "1.2*sin(x)"')
    operation(operations.ZERO, None, "remove the edge")
    operation(operations.CLAMP, "LO:HI", "limit the values of the curve")
    operation(operations.MONOTONE, "up|down", "replace the curve by the nearest monotone one")
    operation(operations.SHIFT, "DX", "move the curve along x")
    operation(operations.RAISE, "DY", "move the curve along y")
    operation(operations.POINTS, "FILE", "fit the curve to points: a .csv with the columns x and y")
    add("--file", type=Path, metavar="FILE", help="edits of many edges, as .json or .toml")


def run(args: argparse.Namespace, page: Page | None = None) -> int:
    """Run an edit from parsed arguments. `page`: writes a page of the report, before the result is printed. Returns the
    exit code. Raises ExportError."""
    requested = _requested(args)
    folder = arguments.version_folder(args.path, args.version)
    rows = None if args.rows is None else baseline.load(args.rows, republish.ROWS)
    budget = 0.0 if re.fullmatch(r"0+(s|m|h)?", args.budget.strip()) else seconds(args.budget, "--budget")
    with tables.bar("exporting") as advance:
        done = republish.edit_version(
            folder,
            requested,
            author=user() if args.author is None else args.author,
            rows=rows,
            version=args.new_version,
            repository=args.repository,
            budget=budget,
            dry_run=args.dry_run,
            advance=advance,
        )
    about = document(done, dry_run=args.dry_run)
    if page is not None:
        page(about, done.result.manifest.names)
    if args.json:
        print_json(about)
    else:
        show(done, dry_run=args.dry_run)
    return Exit.DONE


def _requested(args: argparse.Namespace) -> tuple[EdgeEdit, ...]:
    """The edits of the arguments, then those of the file. Raises OptionError."""
    for edge, operation, _ in args.edits:
        if operation is None:
            raise OptionError(
                f"{EDGE} {edge} has no operation",
                code="operation-missing",
                hint=f"add one of {', '.join(f'--{name}' for name in operations.OPERATIONS)}",
            )
    requested = tuple(operations.parse(*entry) for entry in args.edits)
    if args.file is not None:
        requested += operations.load(args.file)
    operations.check(requested)
    return requested


def user() -> str:
    """The name of the user of this process, or empty."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in a container
        return ""


def document(done: EditResult, *, dry_run: bool = False) -> dict[str, Any]:
    """The document that `--json` prints."""
    manifest = done.result.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "directory": None if dry_run else str(done.result.directory),
        "edit": dataclasses.asdict(manifest.edit),
        "difference": dataclasses.asdict(done.difference),
        "verified": manifest.claim,
        "notes": list(manifest.notes),
    }


def show(done: EditResult, *, dry_run: bool = False) -> None:
    """Print the result as tables."""
    manifest, report = done.result.manifest, done.difference
    say(f"{manifest.name} version {manifest.version}: edit of version {manifest.edit.parent_version}")
    numbers: tuple[str, ...] = ("lowest before", "highest before", "lowest after", "highest after", "largest error")
    edges = Table("edited edges, over the grid", ("edge", "operation", "form", *numbers), numbers=numbers)
    for curve in report.curves:
        ends = (*curve.range_before, *curve.range_after)
        error = f"{curve.error_max:.1e}" if curve.form == edits.FITTED else "0"
        edges.add(curve.edge, curve.operation, curve.form, *(f"{end:.4g}" for end in ends), error)
    edges.show()
    numbers = ("largest change", "in row", "mean change")
    title = f"change of the outputs on {report.rows} rows ({report.rows_from})"
    outputs = Table(title, ("output", *numbers), numbers=numbers)
    for output in report.outputs:
        outputs.add(output.name, f"{output.largest:.4g}", str(output.row), f"{output.mean:.4g}")
    outputs.show()
    _rows(report)
    _certificates(report)
    for note in manifest.notes:
        say(f"note: {note}")
    if dry_run:
        say(manifest.claim)
    what_next(done.result, dry_run=dry_run)


def what_next(result: Result | None, *, dry_run: bool) -> None:
    """Print the verification and the folder of a new version, and the commands to serve it. `result`: None for none."""
    if result is None or dry_run:
        say("nothing was written" + (" (--dry-run)" if dry_run else ""))
        return
    name, version = result.manifest.name, result.manifest.version
    say(result.manifest.claim)
    say(f"written to {result.directory}; a server serves it only by its number")
    say(f"next: kanserve shadow {name} {version}, then kanserve promote {name} {version}")


def _rows(report: Difference) -> None:
    if report.changed >= 0:
        pairs = ", ".join(f"{flip.before} to {flip.after} in {flip.rows}" for flip in report.flips)
        say(f"the largest output is another one on {report.changed} rows" + (f": {pairs}" if pairs else ""))
    before, after = report.not_finite
    if before or after:
        say(f"rows with outputs that are not finite: {before} before, {after} after")


def _certificates(report: Difference) -> None:
    say(f"certificates: {report.certificates_note}")
    if report.certificates is None:
        return
    for item in report.certificates["outputs"]:
        say(f"{item['name']}: {_ends(item['before'])} before, {_ends(item['after'])} after", indent=2)
    for item in report.certificates["directions"]:
        say(f"{item['output']} in {item['input']}: {item['before']} before, {item['after']} after", indent=2)
    if not any(report.certificates.values()):
        say("no range and no direction changes", indent=2)


def _ends(ends: Sequence[float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"
