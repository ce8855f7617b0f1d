"""Writer of the report into the documentation, with the measured cells in a file next to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.matrix import plot, report

PLACE = ("commit", "machine", "versions")  # the first line of the file has them
KEY, WRITER = "matrix", "benchmarks/matrix"
CELLS, PAGE, README = Path("docs/performance.jsonl"), Path("docs/performance.md"), Path("README.md")


def docs(records: Sequence[Mapping[str, Any]], root: Path) -> None:
    """Write all of it below `root`. Raises ValueError for cells of more than one place."""
    heads = {json.dumps({name: record[name] for name in PLACE}) for record in records}
    if len(heads) != 1:
        raise ValueError(f"cells of {len(heads)} places: one commit on one machine was expected")
    lines = [*heads, *(json.dumps({name: record[name] for name in record if name not in PLACE}) for record in records)]
    (root / CELLS).write_text("\n".join(lines) + "\n")
    pictures = plot.write(records, root / PAGE.parent)
    pages.put(root / PAGE, KEY, WRITER, report.markdown(records, pictures))
    pages.put(root / README, KEY, WRITER, report.readme(records))


def published(root: Path) -> list[dict[str, Any]]:
    """The cells that the documents are of."""
    head, *cells = (root / CELLS).read_text().splitlines()
    return [json.loads(head) | json.loads(line) for line in cells]
