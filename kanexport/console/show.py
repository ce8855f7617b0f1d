"""What an export found, for people and for machines."""

from __future__ import annotations

import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kanexport.manifest import arrows
from kanexport.packing.publish import Result

PIPE_WIDTH = 160  # columns, where there is no terminal to ask


def result(result: Result) -> None:
    """Print one export as a table."""
    manifest = result.manifest
    console = Console(highlight=False)
    edges = sum(layer.active_edges for layer in manifest.layers)
    console.print(
        f"[bold]{manifest.name}[/] version {manifest.version}: {manifest.source.family}, "
        f"{arrows(manifest.shapes)}, {edges} edges"
    )
    assumed = ", ".join(f"{key}={value}" for key, value in manifest.source.options_assumed.items())
    if assumed:
        console.print(f"assumed, since the file does not tell: {escape(printable(assumed))}")
    for note in manifest.notes:
        console.print(f"note: {escape(printable(note))}")
    table = Table(title="largest errors against float64", title_justify="left")
    for heading in ("zone", "rows", "outputs rel.", "abs.", "edges rel.", "abs.", "worst"):
        table.add_column(heading, justify="left" if heading in ("zone", "worst") else "right", no_wrap=True)
    for zone in manifest.verification.zones:
        errors = (zone.outputs_max_rel, zone.outputs_max_abs, zone.edges_max_rel, zone.edges_max_abs)
        table.add_row(zone.name, str(zone.rows), *(f"{error:.1e}" for error in errors), zone.worst_edge)
    console.print(table)
    console.print(f"written to {escape(str(result.directory))}", soft_wrap=True)


def folder(report: dict[str, Any]) -> None:
    """Print the report of a folder (`sweep.document`): what was exported, how well, and
    why the rest was refused."""
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    table = Table(title="largest relative errors against float64", title_justify="left", box=box.SIMPLE)
    table.add_column("file", overflow="fold", min_width=28)
    for heading in ("family", "widths", "class", "outputs", "edges"):
        numbers = heading in ("outputs", "edges")
        table.add_column(heading, justify="right" if numbers else "left", no_wrap=heading != "widths")
    refused, excused = [], False
    for entry in report["files"]:
        place = escape(printable(entry["path"]))
        if entry["status"] == "refused":
            table.add_row(place, "[red]refused[/]", entry["error"]["kind"])
            refused.append((place, entry["error"]))
        else:
            errors = [_marked(entry, kind) for kind in ("outputs", "edges")]
            excused |= any(error.endswith("*") for error in errors)
            table.add_row(place, entry["family"], widths(entry["widths"]), entry["edge_class"], *errors)
    console.print(table)
    if excused:
        console.print(
            "* the model itself makes rounding that large; its notes (in the report) say where", soft_wrap=True
        )
    for place, error in refused:
        _, _, message = error["message"].rpartition(f"{report['root']}/{place}: ")
        console.print(f"[bold]{place}[/]: {error['kind']}: {escape(printable(message))}", soft_wrap=True)
        if error["hint"]:
            console.print(f"  help: {escape(printable(error['hint']))}", soft_wrap=True)
    for given in report["unused"]:
        console.print(f"[bold]{escape(printable(given))}[/] was of no use to any exported file", soft_wrap=True)
    console.print(f"{report['exported']} of {report['tried']} exported")


def _marked(entry: dict[str, Any], kind: str) -> str:
    """The largest error of "outputs" or "edges", with a star if it is beyond the tolerance."""
    error = entry[f"{kind}_max_rel"]
    return f"{error:.1e}" + ("*" if error > entry["verification"][f"{kind}_tolerance"] else "")


def widths(numbers: list[int]) -> str:
    """2 → 5 → 1"""
    return " → ".join(map(str, numbers))


def printable(text: str) -> str:
    """Names from a file reach the terminal, but its control sequences do not."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
