"""The report in the documents, and the cells that it was made of beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.matrix import plot, report

KEY, WRITER = "matrix", "benchmarks/matrix"
CELLS, PAGE, README = Path("docs/performance.jsonl"), Path("docs/performance.md"), Path("README.md")


def docs(records: Sequence[Mapping[str, Any]], root: Path) -> None:
    """Write all of it below `root`."""
    (root / CELLS).write_text("".join(json.dumps(one) + "\n" for one in records))
    pictures = plot.write(records, root / PAGE.parent)
    pages.put(root / PAGE, KEY, WRITER, report.markdown(records, pictures))
    pages.put(root / README, KEY, WRITER, report.readme(records))


def published(root: Path) -> list[dict[str, Any]]:
    """The cells that the documents are of."""
    return [json.loads(line) for line in (root / CELLS).read_text().splitlines()]
