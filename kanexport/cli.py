"""`kanserve export`: arguments in, one call, a table out.

Results go to stdout, progress and errors to stderr; `--json` prints one document.
Exit codes: 0 exported, 2 the checkpoint or the command is wrong, 3 the graph
failed its verification, 1 anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from kanexport.errors import ExportError
from kanexport.export import MAX_BATCH_SIZE, Request, Result, export
from kanexport.verify import OUTPUT_TOLERANCE

EXAMPLES = """examples:
  kanserve export model/0.5 --repository models --name wine     pykan: the prefix, or any of its files
  kanserve export digits.pt --repository models --name digits   efficient-kan: .pt, .pth, .safetensors
  kanserve export pruned --repository models --option input_id=0,2 --option n_inputs=4
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export` to a parser."""
    parser.description = "Turn a trained KAN into a verified entry of a model repository."
    parser.epilog = EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("checkpoint", type=Path, help="the checkpoint file, or pykan's prefix")
    add("--repository", type=Path, default=Path("models"), help="the model repository (default: models)")
    add("--name", default="", help="model name (default: the checkpoint's)")
    add("--version", type=int, default=1, help="version number (default: 1)")
    add("--family", help="the library that wrote the checkpoint, if the file leaves it open")
    add("--option", action="append", default=[], metavar="KEY=VALUE", help="a fact the checkpoint does not hold")
    add(
        "--architecture", type=Path, metavar="FILE", help="a list of steps (TOML), where the file leaves the order open"
    )
    add("--dtype", choices=("float32", "float64"), default="float32", help="precision of the graph")
    add("--max-batch-size", type=int, default=MAX_BATCH_SIZE, help=f"rows per request (default: {MAX_BATCH_SIZE})")
    add("--tolerance", type=float, default=OUTPUT_TOLERANCE, help="largest relative error of outputs allowed")
    add("--force", action="store_true", help="replace the version if it exists")
    add("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Run an export from parsed arguments; the exit code."""
    request = Request(
        path=args.checkpoint,
        repository=args.repository,
        name=args.name,
        version=args.version,
        family=args.family,
        options=tuple(args.option),
        architecture=args.architecture,
        dtype=args.dtype,
        max_batch_size=args.max_batch_size,
        tolerance=args.tolerance,
        force=args.force,
    )
    try:
        with _terminable(), _progress() as advance:
            result = export(request, advance=advance)
    except ExportError as error:
        return _fail(error, as_json=args.json)
    if args.json:
        print(json.dumps(_document(result)))
    else:
        _show(result)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The command by itself: `python -m kanexport`."""
    parser = argparse.ArgumentParser(prog="kanexport")
    configure(parser)
    return run(parser.parse_args(argv))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that the hidden folder is removed."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns = (TextColumn("verifying"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("verify", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _fail(error: ExportError, *, as_json: bool) -> int:
    if as_json:
        kind = type(error).__name__
        print(json.dumps({"error": {"kind": kind, "message": error.message, "hint": error.hint}}))
    print(f"error: {_printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"  help: {_printable(error.hint)}", file=sys.stderr)
    return error.exit_code


def _document(result: Result) -> dict[str, Any]:
    manifest = result.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "directory": str(result.directory),
        "family": manifest.source.family,
        "family_reason": manifest.source.family_reason,
        "widths": list(manifest.widths),
        "edge_class": manifest.edge_class,
        "options": {"given": manifest.source.options_given, "assumed": manifest.source.options_assumed},
        "verification": dataclasses.asdict(manifest.verification),
        "files": {entry.path: entry.size for entry in manifest.files},
        "notes": list(manifest.notes),
    }


def _show(result: Result) -> None:
    manifest = result.manifest
    console = Console(highlight=False)
    widths = " → ".join(str(n) for n in manifest.widths)
    edges = sum(layer.active_edges for layer in manifest.layers)
    console.print(
        f"[bold]{manifest.name}[/] version {manifest.version}: {manifest.source.family}, {widths}, {edges} edges"
    )
    assumed = ", ".join(f"{key}={value}" for key, value in manifest.source.options_assumed.items())
    if assumed:
        console.print(f"assumed, since the file does not tell: {escape(assumed)}")
    for note in manifest.notes:
        console.print(f"note: {escape(_printable(note))}")
    table = Table(title="largest errors against float64", title_justify="left")
    for heading in ("zone", "rows", "outputs rel.", "abs.", "edges rel.", "abs.", "worst"):
        table.add_column(heading, justify="left" if heading in ("zone", "worst") else "right", no_wrap=True)
    for zone in manifest.verification.zones:
        errors = (zone.outputs_max_rel, zone.outputs_max_abs, zone.edges_max_rel, zone.edges_max_abs)
        table.add_row(zone.name, str(zone.rows), *(f"{error:.1e}" for error in errors), zone.worst_edge)
    console.print(table)
    console.print(f"written to {escape(str(result.directory))}", soft_wrap=True)


def _printable(text: str) -> str:
    """Names from a file reach the terminal, but its control sequences do not."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
