"""Command `kanserve symbolify`: replaces edges of a trained KAN by functions, and prints the formula and its error.

The result of an exported version is a new version. The result of a checkpoint is only printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kanexport import pipeline, republish
from kanexport.bundle import baseline, description
from kanexport.bundle.baseline import Rows
from kanexport.bundle.publish import Result
from kanexport.certify import certificate
from kanexport.cli import arguments
from kanexport.cli.edit_command import Page, user, what_next
from kanexport.cli.edit_command import document as edit_document
from kanexport.edit import circuit, difference, library, operations, symbolify
from kanexport.edit.apply import EXACT as EXACT_FORM
from kanexport.edit.apply import Change
from kanexport.edit.edge import Edge, in_units
from kanexport.edit.symbolify import Replacement, Symbolified
from kanexport.errors import OptionError, arguments_conflict
from kanexport.export_request import Request
from kanexport.ir.model import Kan
from kanexport.ir.scaling import standardize
from kanexport.pipeline import Reopened
from kanexport.republish import EditResult
from kanexport.shared import formula
from kanexport.shared.cli import checkpoint_options, tables
from kanexport.shared.cli.console import EXIT_CODES, Exit, print_json, say
from kanexport.shared.cli.tables import Table
from kanexport.shared.formula import Formula
from kanexport.shared.formula_printer import FormulaError
from kanexport.shared.naming import Names

Array = npt.NDArray[np.float64]

TARGETS = "--targets"
DIGITS = 6
EXAMPLES = """examples:
  kanserve symbolify tests/golden/checkpoints/pykan-hello-pruned/model --tolerance 1e-2
  kanserve symbolify models/hello --rows examples/hello-baseline.csv --library x,x^2,exp,sin --dry-run
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `symbolify` to a parser."""
    parser.description = (
        "Replace edges of a trained KAN by functions, one after another, while the error of the outputs stays within a "
        "tolerance. The result of an exported model is a new version, which a server never serves by default."
    )
    parser.epilog = f"{EXAMPLES}\n{EXIT_CODES}"
    add = parser.add_argument
    add(
        "path",
        type=Path,
        metavar="MODEL",
        help="folder of a model or of one of its versions, such as models/hello; or a checkpoint, whose result is "
        "printed only",
    )
    add("--version", type=int, metavar="N", help="version to read, if MODEL has several (default: the highest)")
    add(
        republish.ROWS,
        type=Path,
        metavar="FILE",
        help="rows of your data as .npz, .npy or .csv, on which the error is measured; they become the baseline of the "
        "result (default: rows from the input histograms of the baseline, or from the training grid)",
    )
    add(
        TARGETS,
        type=Path,
        metavar="FILE",
        help="true outputs of the rows, as .npz, .npy or .csv, to which the functions are fitted; of an .npz file with "
        "several arrays, y is read (default: the outputs of the network)",
    )
    add(
        "--tolerance",
        default="1e-3",
        metavar="ERROR",
        help="largest root mean square error of an output, relative to its standard deviation (default: 1e-3)",
    )
    add(
        "--library",
        default="",
        metavar="LIST",
        help=f"functions, separated by commas, out of {', '.join(library.ALL)} (default: all but cos, arccos and "
        "sigmoid, which are shifts or scales of others)",
    )
    arguments.new_version_options(parser)
    add("--dry-run", action="store_true", help="search, verify and report, but write nothing")
    add("--json", action="store_true", help="print one JSON document")
    checkpoint_options.facts(parser)
    checkpoint_options.names(parser, rows=False)


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """Network that is changed, with its names; `opened` and `folder` of a version."""

    kan: Kan
    names: Names
    opened: Reopened | None = None
    folder: Path = Path()


def run(args: argparse.Namespace, page: Page | None = None) -> int:
    """Run the search from parsed arguments. `page`: as in `kanserve edit`; its document also has the edit and the
    difference of a new version. Returns the exit code. Raises ExportError."""
    tolerance = _tolerance(args.tolerance)
    functions = tuple(name.strip() for name in args.library.split(",") if name.strip())
    library.chosen(functions)
    source = _source(args)
    if source.opened is not None and args.new_version is not None:
        republish.check_version(source.opened, args.new_version, args.repository)
    rows = None if args.rows is None else baseline.load(args.rows, republish.ROWS)
    x, rows_from = _rows(source, rows)
    targets = _targets(args)
    with tables.bar("replacing edges") as advance:
        outcome = symbolify.symbolify(source.kan, x, tolerance, targets=targets, names=functions, advance=advance)
    done = _publish(source, outcome, rows, args)
    result = None if done is None else done.result
    formulas = _formulas(outcome.kan, source.names)
    outcome = _in_units(source.kan, outcome)
    about = _document(outcome, formulas, len(x), rows_from, result, dry_run=args.dry_run)
    if page is not None:
        page(about if done is None else about | edit_document(done, dry_run=args.dry_run), source.names)
    if args.json:
        print_json(about)
    else:
        _show(outcome, formulas, len(x), rows_from)
        what_next(result, dry_run=args.dry_run)
    return Exit.DONE


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise OptionError(
            f"--tolerance is {text[:40]!r}, expected a positive number",
            code="tolerance-out-of-range",
            hint="pass a relative error such as --tolerance 1e-3",
        )
    return value


def _source(args: argparse.Namespace) -> _Source:
    """The network of a version, or of a checkpoint. Raises ExportError, also for options that a version has already."""
    path, request = args.path, arguments.checkpoint_request(args)
    if not arguments.is_exported(path):
        return _Source(*pipeline.network(request))
    if request != Request(path=path, repository=None):
        raise arguments_conflict(
            f"{path} is an exported model, which has the options of its export already",
            hint="remove the options that read a checkpoint, and the names",
        )
    folder = arguments.version_folder(path, args.version)
    opened = pipeline.reopen(folder)
    republish.require_exact(opened)
    return _Source(opened.served, opened.target.names, opened, folder)


def _rows(source: _Source, rows: Rows | None) -> tuple[Array, str]:
    """Rows [N, n] in the order of the inputs, and where they are from. Raises ExportError."""
    if source.opened is not None:
        return republish.comparison_rows(source.opened, rows)
    if rows is None:
        return difference.in_box(*certificate.grid_box(source.kan)), "sampled from the training grid"
    return rows.ordered(source.names, republish.ROWS), rows.name


def _targets(args: argparse.Namespace) -> Array | None:
    if args.targets is None:
        return None
    if args.rows is None:
        raise OptionError(
            f"{TARGETS} needs the rows that they belong to",
            code="rows-required",
            hint="pass the rows with --rows FILE",
        )
    return baseline.load(args.targets, TARGETS, "y").x


def _publish(source: _Source, outcome: Symbolified, rows: Rows | None, args: argparse.Namespace) -> EditResult | None:
    """Export the network with functions as a new version; None for a checkpoint, and if no edge is replaced. Raises
    ExportError."""
    opened = source.opened
    if opened is None or not outcome.replaced:
        return None
    kan, outcome = circuit.network(opened.kan, outcome.forms()), _in_units(source.kan, outcome)
    texts = [(entry.at, entry.form.text()) for entry in outcome.replaced]
    changes = [Change(operations.parse(at, operations.TO, text), EXACT_FORM) for at, text in texts]
    note = (
        f"{len(changes)} edges were replaced by functions; the error of the outputs is {outcome.error:.2e} of their "
        "spread"
    )
    report = republish.compare(opened, kan, changes, rows=rows, budget=0.0)
    author = user() if args.author is None else args.author
    with tables.bar("exporting") as advance:
        result = republish.publish_version(
            opened,
            kan,
            republish.edit_section(opened, source.folder, changes, report, author),
            rows=rows,
            version=args.new_version,
            repository=args.repository,
            notes=(note, *_warnings(outcome)),
            dry_run=args.dry_run,
            advance=advance,
        )
    return EditResult(result, report)


def _in_units(kan: Kan, outcome: Symbolified) -> Symbolified:
    """The functions and grids for people: of x in the user's units, as in `kanserve edit`."""

    def edge(at: tuple[int, int, int]) -> Edge:
        return in_units(kan.layers[at[0]], at, standardize(kan.layers[0]))

    def replaced(entry: Replacement) -> Replacement:
        form, own = entry.form, edge(entry.at)
        a, b = form.a / own.scale, form.b - form.a * own.offset / own.scale
        return dataclasses.replace(entry, form=dataclasses.replace(form, a=a, b=b))

    undefined = tuple((at, edge(at).x_of(low), edge(at).x_of(high)) for at, low, high in outcome.undefined)
    return dataclasses.replace(outcome, replaced=tuple(map(replaced, outcome.replaced)), undefined=undefined)


def _warnings(outcome: Symbolified) -> tuple[str, ...]:
    """A sentence for each form that is not defined on the whole training grid."""
    forms = outcome.forms()
    return tuple(
        f"edge {_name(at)}: {forms[at].candidate.name} is not defined on the whole training grid {low:.4g} to "
        f"{high:.4g}; rows beyond the compared rows can return NaN"
        for at, low, high in outcome.undefined
    )


def _name(at: Sequence[int]) -> str:
    return ":".join(map(str, at))


def _formulas(kan: Kan, names: Names) -> tuple[Formula, ...]:
    """The outputs as formulas of the inputs; numeric edges are functions with a name. Empty if a step has no closed
    form."""
    inputs = formula.tokens(names.features, "x", kan.n_inputs)
    outputs = formula.tokens(names.classes, "y", kan.n_outputs)
    layers = description.layers(kan, ("",) * len(kan.layers))
    try:
        return formula.formulas(inputs, layers, digits=DIGITS, outputs=outputs, partial=True)
    except FormulaError:
        return ()


def _document(
    outcome: Symbolified,
    formulas: tuple[Formula, ...],
    rows: int,
    rows_from: str,
    result: Result | None,
    *,
    dry_run: bool,
) -> dict[str, Any]:
    """The document that `--json` prints."""
    return {
        "formulas": [{"name": line.name, "expression": line.expression} for line in formulas],
        "error": outcome.error,
        "held_out_error": None if math.isnan(outcome.held_out) else outcome.held_out,
        "original_error": outcome.base,
        "rows": rows,
        "rows_from": rows_from,
        "replaced": [
            {
                "edge": _name(entry.at),
                "function": entry.form.candidate.name,
                **{name: getattr(entry.form, name) for name in ("a", "b", "c", "d")},
                "expression": entry.form.text(),
                "error_then": entry.error,
            }
            for entry in outcome.replaced
        ],
        "left": [_name(at) for at in outcome.left],
        "warnings": list(_warnings(outcome)),
        "name": None if result is None else result.manifest.name,
        "version": None if result is None else result.manifest.version,
        "directory": None if result is None or dry_run else str(result.directory),
    }


def _show(outcome: Symbolified, formulas: tuple[Formula, ...], rows: int, rows_from: str) -> None:
    table = Table("replaced edges, in this order", ("edge", "function of x", "error then"), ("error then",))
    for entry in outcome.replaced:
        table.add(_name(entry.at), entry.form.text(DIGITS), f"{entry.error:.1e}")
    table.show()
    for at in outcome.left:
        say(f"edge {_name(at)} keeps its curve: no function is within the tolerance")
    for line in formulas:
        say(f"{line.name} = {line.expression}")
    say(f"error: {outcome.error:.2e} of the spread of the outputs, on {rows} rows ({rows_from})")
    if not math.isnan(outcome.held_out):
        say(f"error on rows that no fit used: {outcome.held_out:.2e}")
    if outcome.base:
        say(f"error of the original network against the targets: {outcome.base:.2e}")
    for warning in _warnings(outcome):
        say(f"warning: {warning}")
