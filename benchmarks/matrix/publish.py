"""Writer of the report into the pages of docs/benchmarks, with the measured cells in a file next to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.matrix import plot, report
from benchmarks.matrix.groups import GROUPS
from benchmarks.matrix.groups.families import FAMILIES
from benchmarks.matrix.groups.fewer import FEWER

PLACE = ("commit", "machine", "versions")  # the first line of the file has them
WRITER = "benchmarks/matrix"
FOLDER, ASSETS = Path("docs/benchmarks"), Path("docs/assets")
CELLS = FOLDER / "results" / "performance.jsonl"
Records = Sequence[Mapping[str, Any]]


def _groups(*names: str) -> Callable[[Records], str]:
    return lambda records: report.tables([record for record in records if record["group"] in names]) + "\n"


# Page and name of each generated part, and the function that writes it.
PARTS: Mapping[tuple[Path, str], Callable[[Records], str]] = {
    (FOLDER / "index.md", "matrix targets"): lambda records: report.targets(records) + "\n",
    (FOLDER / "export.md", "matrix means"): lambda records: report.means(records) + "\n",
    (FOLDER / "export.md", "matrix"): _groups(*(name for name in GROUPS if name not in (FAMILIES, FEWER))),
    (FOLDER / "libraries.md", "matrix libraries"): _groups(FAMILIES),
    (FOLDER / "quantization.md", "matrix quantization"): _groups(FEWER),
}


def docs(records: Records, root: Path) -> None:
    """Write all of it below `root`. Raises ValueError for cells of more than one place."""
    heads = {json.dumps({name: record[name] for name in PLACE}) for record in records}
    if len(heads) != 1:
        raise ValueError(f"cells of {len(heads)} places: one commit on one machine was expected")
    lines = [*heads, *(json.dumps({name: record[name] for name in record if name not in PLACE}) for record in records)]
    (root / CELLS).write_text("\n".join(lines) + "\n")
    plot.write(records, root / ASSETS)
    pages_only(records, root)


def pages_only(records: Records, root: Path) -> None:
    """Write the generated parts of the pages."""
    for (page, key), text in PARTS.items():
        pages.put(root / page, key, WRITER, text(records))


def published(root: Path) -> list[dict[str, Any]]:
    """The cells that the documents are of."""
    head, *cells = (root / CELLS).read_text().splitlines()
    return [json.loads(head) | json.loads(line) for line in cells]
