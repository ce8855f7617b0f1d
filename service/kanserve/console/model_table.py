"""Model versions for people: one row each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kanexport.manifest import arrows
from kanexport.shared.tables import Table
from kanserve.console import inventory
from kanserve.console.inventory import Entry


def table(source: str, entries: Sequence[Entry]) -> Table:
    """One row a version; `source` is the folder or the server's address."""
    states = {entry.state for entry in entries}
    versions = Table(
        f"models of {source}",
        ("name", "version", "state", "family", "widths", "class", "verified error", "size"),
        numbers=("version", "verified error", "size"),
        caption=("COMPLETE: names, files and manifest were checked; --load also tries the graph",)
        if inventory.COMPLETE in states
        else (),
    )
    for entry in entries:
        versions.add(
            entry.name,
            entry.version,
            f"{entry.state}: {entry.reason}" if entry.reason else entry.state,
            entry.family,
            arrows(entry.shapes),
            _classes(entry),
            "" if math.isnan(entry.verified_error) else f"{entry.verified_error:.1e}",
            "" if entry.size is None else f"{entry.size / 1024:,.0f} KiB",
        )
    return versions


def _classes(entry: Entry) -> str:
    """The model's class, and the layers of another one."""
    others: dict[str, list[str]] = {}
    for at, own in enumerate(entry.layer_classes):
        if own != entry.edge_class:
            others.setdefault(own, []).append(str(at))
    return "; ".join([entry.edge_class, *(f"{own} in layer {', '.join(at)}" for own, at in others.items())])
