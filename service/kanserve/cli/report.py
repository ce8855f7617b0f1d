"""Command `kanserve report NAME -o report.html`: model card of a served KAN as one HTML file."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from kanexport.shared import atomic, safe_files
from kanexport.shared.cli.console import Exit, note, print_json
from kanexport.shared.coded import CodedError
from kanexport.shared.wasm_module import LARGEST
from kanserve.cli import input_rows, output_results, plot, session
from kanserve.cli.options import InputError, add_client_options, add_model_options, add_row_options
from kanserve.client.sync import Client
from kanserve.report import content, interactive, page, selection
from kanserve.report.interactive import Interactive
from kanserve.report.selection import Plan

TEXT = """Write an HTML model card: description, verification, network, input importance and edge curves of a model.

The card is one file without external resources. With --interactive, it computes in the browser.
"""
EXAMPLES = """examples:
  kanserve report digits -o digits.html
  kanserve report digits --input examples/digits.csv -o digits.html
  kanserve report hello --interactive firmware/hello.wasm -o hello.html
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.description, parser.epilog = TEXT, EXAMPLES
    add_model_options(parser, files=True)
    add_row_options(parser, "the counted baseline rows of the export, otherwise its synthetic verification rows")
    parser.add_argument("-o", "--output", required=True, metavar="FILE.html", help="write the model card to this file")
    parser.add_argument(
        "--interactive",
        metavar="FILE.wasm",
        help="add sliders that compute predictions, contributions and curves in the browser, with the module that "
        "`kanserve export FILE --c DIR --wasm` writes",
    )
    add_client_options(parser)


def run(args: argparse.Namespace) -> int:
    """Returns 0. Raises CommandError."""
    output_results.check(args.output, (".html",))
    source = input_rows.contents(args.input) if args.input else None
    module = None if args.interactive is None else _module(args.interactive)
    with session.connection(args, model=args.name) as client:
        described = client.describe(args.name, args.model_version)
        rows: Any = None
        if source is not None:
            rows = input_rows.rows_for_all(described.inputs, source, array=args.array, names=described.names)
        plan = selection.plan(described, client.scores(described, rows, source="best" if rows is None else ""))
        curves = {request: plot.curves(client, request) for request in plan.requests}
        computed = None if module is None else _interactive(client, module, plan)
    text = page.html(dataclasses.replace(content.report(plan, curves), interactive=computed))
    try:
        atomic.write(Path(args.output), text.encode())
    except OSError as error:
        raise output_results.not_written(args.output, error) from error
    if args.json:
        print_json({"model": described.name, "version": described.version, "output": args.output, "bytes": len(text)})
    else:
        note(f"{args.output}: {described.name} version {described.version}")
    return Exit.DONE


def _module(path: str) -> bytes:
    """The bytes of a module. Raises InputError."""
    try:
        return safe_files.read(path, LARGEST, links=True)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", code="module-unreadable", hint="pass the path of a .wasm file"
        ) from error


def _interactive(client: Client, module: bytes, plan: Plan) -> Interactive:
    """The part that computes, with outputs of the server for some rows. Raises InputError for another module."""
    described = plan.described
    try:
        interactive.facts(module, described)
        x = interactive.rows(described)
        tensor = described.inputs[0]
        answer = client.infer(described.name, x.reshape(len(x), *tensor.shape[1:]), version=described.version)
        return interactive.part(module, described, plan.scores, x, answer.outputs[described.outputs[0].name])
    except CodedError as error:
        raise InputError(str(error), code=error.code, hint=error.hint) from error
