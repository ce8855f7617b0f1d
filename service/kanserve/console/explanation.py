"""Explanations for people, as tables, and for machines, as a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kanexport.shared.tables import Table
from kanserve.client.description import Description
from kanserve.client.explain import Explanation
from kanserve.console.drawing import bar

OTHERS = "others"
REFERENCES = {
    "mean": "the mean of the rows that the export was given",
    "zeros": "a row of zeros",
    "grid_center": "the middle of each input's grid",
    "rows": "the rows that were given as reference",
}


def document(described: Description, found: Explanation) -> dict[str, Any]:
    """For JSON: all that there is but the arrays."""
    return {
        "model": described.name,
        "version": found.version,
        "digest": described.digest,
        "method": found.method,
        "reference": found.reference,
        "layer": found.layer,
        "of_inputs": found.of_inputs,
        "inputs": found.names,
        "outputs": found.output_names,
        "rows": len(found.predictions),
        "largest_completeness_error": float(np.max(found.completeness_error, initial=0.0)),
        "notes": found.notes,
    }


def arrays(found: Explanation) -> dict[str, Any]:
    """What a file holds."""
    return {
        "contributions": found.contributions,
        "base": found.base,
        "predictions": found.predictions,
        "completeness_error": found.completeness_error,
    }


def of_row(described: Description, found: Explanation, rows: Any, row: int, which: int, show: int) -> Table:
    """The only row, the `row`-th of the caller, and one of its outputs: from base to prediction, strongest first."""
    names, given = found.names, found.contributions[0, :, which]
    values = np.asarray(rows[0]).reshape(-1) if found.of_inputs else None
    order = np.argsort(-np.where(np.isnan(given), np.inf, np.abs(given)), kind="stable")
    table = Table(
        f"{described.name} version {found.version}, row {row}: {found.output_names[which]} = "
        f"{found.predictions[0, which]:.6g}",
        ("input", "value", "contribution", ""),
        numbers=("value", "contribution"),
        caption=_caption(found, float(found.completeness_error[0, which])),
    )
    largest = float(np.nanmax(np.abs(given), initial=0.0))
    table.add("base", "", f"{found.base[which]:.6g}", "")
    for at in order[:show].tolist():
        value = "" if values is None else f"{values[at]:.4g}"
        table.add(names[at], value, f"{given[at]:+.6g}", bar(float(given[at]), largest))
    if len(order) > show:
        rest = float(given[order[show:]].sum())
        table.add(f"{len(order) - show} {OTHERS}", "", f"{rest:+.6g}", bar(rest, largest))
    table.add("prediction", "", f"{found.predictions[0, which]:.6g}", "")
    return table


def of_all(described: Description, found: Explanation, show: int) -> Table:
    """Several rows: how much each input has to do with the outputs, on average."""
    strength = np.abs(found.contributions).mean(axis=0)
    overall = strength.mean(axis=1)
    order = np.argsort(-np.where(np.isnan(overall), np.inf, overall), kind="stable")
    names, of = found.names, found.output_names
    table = Table(
        f"{described.name} version {found.version}: {len(found.predictions)} rows, {len(of)} outputs",
        ("input", "mean |contribution|", "", "most to"),
        numbers=("mean |contribution|",),
        caption=(
            f"{min(show, len(order))} of {len(order)} inputs; --row N shows one row",
            *_caption(found, float(np.max(found.completeness_error, initial=0.0))),
        ),
    )
    largest = float(np.nanmax(overall, initial=0.0))
    for at in order[:show].tolist():
        most = int(np.argmax(strength[at]))
        table.add(names[at], f"{overall[at]:.6g}", bar(float(overall[at]), largest), of[most])
    return table


def _caption(found: Explanation, error: float) -> Sequence[str]:
    return (
        f"against {REFERENCES.get(found.reference, found.reference)}, by {found.method}; "
        f"base and contributions miss the prediction by {error:.1e}"
        + (" at most" if len(found.predictions) > 1 else ""),
        *found.notes,
    )
