"""The content of the report of an edit, from the JSON document of `kanserve edit` or `kanserve symbolify`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kanexport.shared.naming import Names
from kanserve.plotting import figures
from kanserve.plotting.scenes import BLUE, Curve
from kanserve.report.page import Facts, Grid, Part, Pictures, Report

Document = Mapping[str, Any]

CURVES = 60  # of a page; the table has all edges
INPUTS = 40  # of the row that changes most
DASH = "-"
DRAWN = (
    "Grey and thin: before. Blue and thick: after. Blue marks on the axis: ends of the training grid. Each curve shows "
    "10% more on each side."
)
HIGHEST = ("output", "largest change", "in row", "mean change")
EDGES = ("edge", "operation", "form", "before, on the grid", "after, on the grid", "largest error")


def report(document: Document, names: Names) -> Report:
    """The report. `names`: of the inputs and outputs of the model. The document of `kanserve symbolify` has a formula
    and errors too, and has no difference if no version was made."""
    edit, difference = document.get("edit"), document.get("difference")
    parts: list[Part] = [*_symbolified(document)]
    if edit is not None and difference is not None:
        parts += [*_outputs(difference, names), *_certificates(difference), *_curves(difference)]
        lineage = [
            ("Model", document["name"]),
            ("Version", f"{document['version']}, of version {edit['parent_version']}"),
            ("Manifest of the parent", f"sha256 {edit['parent_sha256']}"),
            ("Author", edit["author"] or DASH),
            ("Folder", document["directory"] or "nothing was written (--dry-run)"),
        ]
        verification = [("Export", document["verified"]), *(("Note", text) for text in document["notes"])]
        parts += [Facts("Lineage", lineage), Facts("Verification", verification)]
    title = f"{document['name']}, version {document['version']}" if edit else "Formula of a network"
    lead = f"Edit of version {edit['parent_version']}" if edit else "No version was written"
    return Report(title, lead, parts, "kanserve difference report")


def _symbolified(document: Document) -> Iterator[Part]:
    """Formula, errors and functions of `kanserve symbolify`; nothing for an edit."""
    if "replaced" not in document:
        return
    if document["formulas"]:
        yield Facts("Formula", [(line["name"], line["expression"]) for line in document["formulas"]])
    errors = [("Error", f"{document['error']:.4g} of the spread of the outputs, on {document['rows']} rows")]
    if document["held_out_error"] is not None:
        errors.append(("On rows that no fit used", f"{document['held_out_error']:.4g}"))
    if document["original_error"]:
        errors.append(("Network against the targets", f"{document['original_error']:.4g}"))
    yield Facts("Error", [*errors, *(("Warning", text) for text in document["warnings"])])
    replaced = [(item["edge"], item["expression"], f"{item['error_then']:.1e}") for item in document["replaced"]]
    left = f"Edges that keep their curve: {', '.join(document['left']) or 'none'}."
    yield Grid("Replaced edges", left, ("edge", "function of x", "error then"), replaced)


def _outputs(difference: Document, names: Names) -> Iterator[Part]:
    """Changes of the outputs, changed classes, and the row that changes most."""
    rows = f"{difference['rows']} rows ({difference['rows_from']})"
    before, after = difference["not_finite"]
    lost = f" Rows with outputs that are not finite: {before} before, {after} after." if before or after else ""
    lines = [
        (item["name"], f"{item['largest']:.4g}", str(item["row"]), f"{item['mean']:.4g}")
        for item in difference["outputs"]
    ]
    yield Grid("Change of the outputs", f"Absolute change on {rows}.{lost}", HIGHEST, lines)
    if difference["changed"] >= 0:
        flips = [(item["before"], item["after"], str(item["rows"])) for item in difference["flips"]]
        remark = f"The largest output is another one on {difference['changed']} of {rows}."
        yield Grid("Changed classes", remark, ("before", "after", "rows"), flips)
    if worst := difference["worst_row"]:
        pairs = zip(worst["before"], worst["after"], strict=True)
        ends = [(names.output(at), f"{old:.4g}", f"{new:.4g}") for at, (old, new) in enumerate(pairs)]
        inputs = worst["inputs"]
        values = ", ".join(f"{names.feature(at)} = {value:.4g}" for at, value in enumerate(inputs[:INPUTS]))
        more = f", and {len(inputs) - INPUTS} more inputs" if len(inputs) > INPUTS else ""
        remark = f"Row {worst['row']}: {values}{more}."
        yield Grid("Row that changes most", remark, ("output", "before", "after"), ends)


def _certificates(difference: Document) -> Iterator[Part]:
    """Certified ranges and directions that change."""
    own, text = difference["certificates"], difference["certificates_note"]
    note = f"{text[0].upper()}{text[1:]}"
    if own is None or not any(own.values()):
        none = note if own is None else f"{note}; no range and no direction changes"
        yield Facts("Certificates", [("Compared", none)])
        return
    if own["outputs"]:
        ranges = [(item["name"], _ends(item["before"]), _ends(item["after"])) for item in own["outputs"]]
        yield Grid("Changed certified ranges", f"{note}.", ("output", "before", "after"), ranges)
    if own["directions"]:
        head = ("input", "output", "before", "after")
        lines = [tuple(str(item[key]) for key in head) for item in own["directions"]]
        yield Grid("Changed certified directions", f"{note}.", head, lines)


def _curves(difference: Document) -> Iterator[Part]:
    """Each edited edge, in a table and as a picture."""
    curves = difference["curves"]
    lines = [
        (
            item["edge"],
            item["operation"],
            item["form"],
            _ends(item["range_before"]),
            _ends(item["range_after"]),
            f"{item['error_max']:.1e}" if item["error_max"] else DASH,
        )
        for item in curves
    ]
    yield Grid("Edited edges", "An edge is layer:source:destination, which count from 0.", EDGES, lines)
    if curves:
        more = f" The first {CURVES} of {len(curves)} edges." if len(curves) > CURVES else ""
        scenes = []
        for item in curves[:CURVES]:  # values that are not finite are None in the document
            x = np.array(item["x"])
            before, after = (np.array(item[key], dtype=np.float64) for key in ("before", "after"))
            caption = f"before: grey, thin; after: blue, thick; {item['form']}"
            scenes.append(
                figures.edge_scene(
                    f"edge {item['edge']}: {item['operation']}",
                    caption,
                    ("x of the edge", "its destination"),
                    Curve(x, after),
                    item["grid"],
                    BLUE,
                    Curve(x, before),
                )
            )
        yield Pictures("Curves", f"{DRAWN}{more}", scenes)


def _ends(ends: Sequence[float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"
