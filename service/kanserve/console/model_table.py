"""Model versions for people: one row each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kanexport.manifest import AGAINST, arrows
from kanexport.shared.outside import AS_TRAINED, POLICIES
from kanexport.shared.tables import Table
from kanserve.console import inventory
from kanserve.console.inventory import Entry


def table(source: str, entries: Sequence[Entry], *, whole: bool = False) -> Table:
    """One row a version; `source` is the folder or the server's address. `whole`: with all that is
    known of their verification."""
    checked = inventory.COMPLETE in {entry.state for entry in entries}
    versions = Table(
        f"models of {source}",
        ("name", "version", "state", "family", "widths", "class", "verified error", "against", "size"),
        numbers=("version", "verified error", "size"),
        caption=(
            *(_claims(entries) if whole else _kinds(entries)),
            *(
                f"{e.name} {e.version}: without effect in config.pbtxt: {', '.join(e.unused)}"
                for e in entries
                if e.unused
            ),
            *(("COMPLETE: names, files and manifest were checked; --load also tries the graph",) * checked),
        ),
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
            entry.against,
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


def _kinds(entries: Sequence[Entry]) -> list[str]:
    """What the words in the column "against" mean."""
    kinds = {entry.against for entry in entries}
    return [f"{kind}: {words}" for kind, words in AGAINST.items() if kind in kinds]


def _claims(entries: Sequence[Entry]) -> list[str]:
    """What each was verified against, and what was assumed."""
    facts = [", ".join(f"{key}={value}" for key, value in entry.assumed.items()) for entry in entries]
    lines = (
        *(entry.verified for entry in entries if entry.verified),
        *(f"assumed, since the file does not tell: {text}" for text in facts if text),
        *(f"runs with {entry.serving}" for entry in entries if entry.serving),
        *filter(None, map(_outside, entries)),
    )
    return list(dict.fromkeys(lines))  # versions of one model share most lines


def _outside(entry: Entry) -> str:
    """What becomes of rows outside, unless that is as usual."""
    return "" if entry.outside == AS_TRAINED else POLICIES.get(entry.outside, "")
