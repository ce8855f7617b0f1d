"""Command `kanserve report NAME -o report.html`: model card of a served KAN as one HTML file."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from kanexport.shared import atomic, safe_files
from kanexport.shared.cli.console import CodedError, Exit, note, print_json
from kanexport.shared.wasm_module import LARGEST
from kanserve.cli import plot, session
from kanserve.cli.options import InputError, add_client_options, add_model_options, add_row_options
from kanserve.report import content, interactive, page, selection
from kanserve.tables import output_results

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
    module = None
    if args.interactive is not None:
        try:
            module = safe_files.read(args.interactive, LARGEST, links=True)
        except OSError as error:
            raise InputError(
                f"{args.interactive} cannot be read: {error.strerror}",
                code="module-unreadable",
                hint="pass the path of a .wasm file",
            ) from error
    with session.queried(args) as (client, described, rows):
        plan = selection.plan(described, client.scores(described, rows, source="best" if rows is None else ""))
        curves = {request: plot.curves(client, request) for request in plan.requests}
        computed = None
        if module is not None:
            try:
                interactive.facts(module, described)
                x, tensor = interactive.rows(described), described.inputs[0]
                response = client.infer(described.name, x.reshape(len(x), *tensor.shape[1:]), version=described.version)
                outputs = response.outputs[described.outputs[0].name]
                computed = interactive.part(module, described, plan.scores, x, outputs)
            except CodedError as error:  # the module is not that of the model
                raise InputError(str(error), code=error.code, hint=error.hint) from error
    text = page.html(dataclasses.replace(content.report(plan, curves), interactive=computed))
    with output_results.writing(args.output):
        atomic.write(Path(args.output), text.encode())
    if args.json:
        print_json({"model": described.name, "version": described.version, "output": args.output, "bytes": len(text)})
    else:
        note(f"{args.output}: {described.name} version {described.version}")
    return Exit.DONE
